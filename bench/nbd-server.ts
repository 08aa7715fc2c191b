/** The server that `bench/nbd.ts` measures: node bench/nbd-server.ts discard|write|read SOCKET FILE SIZE. Says when it listens. */
import fs from 'node:fs/promises';
import type {NbdExport} from '../src/nbd/export.ts';
import {serveNbd} from '../src/nbd/server.ts';

const [kind, socket = '', file = '', size] = process.argv.slice(2);
const handle = await fs.open(file, 'r+');
const shared: NbdExport = {sizeBytes: Number(size), connections: 'coherent', flush: () => Promise.resolve()};
const write = async (offset: number, data: Buffer): Promise<void> => {
	await handle.write(data, 0, data.length, offset);
};
const read = async (offset: number, into: Buffer): Promise<void> => {
	await handle.read(into, 0, into.length, offset);
};
const discard = (): Promise<void> => Promise.resolve();
const exports: Record<string, NbdExport> = {
	discard: {...shared, write: discard, writeZeroes: discard},
	write: {...shared, write, writeZeroes: discard},
	read: {...shared, read},
};
await serveNbd({unix: socket}, new Map([['disk', exports[kind ?? '']!]]));
console.log('listening');
