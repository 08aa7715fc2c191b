/**
 * What somebody runs who keeps raw copies: reads from each export what has changed, or all, and writes it to the folder's
 * `<disk>.raw`. Ends with the status that it is given.
 */
import fs from 'node:fs/promises';
import path from 'node:path';
import {NbdClient} from '../../../src/nbd/client.ts';

const [folder = '', status = '0'] = process.argv.slice(2);
const found = JSON.parse(process.env['QUIESCE_EXPORTS'] ?? '[]') as {
	disk: string;
	uri: string;
	size_bytes: number;
	changes: string | null;
}[];

for (const {disk, uri, size_bytes: sizeBytes, changes} of found) {
	const socket = new URL(uri).searchParams.get('socket') ?? '';
	const context = changes ?? 'base:allocation';
	const client = await NbdClient.connect({unix: socket}, disk, {metaContexts: [context]});
	const file = await fs.open(path.join(folder, `${disk}.raw`), changes === null ? 'w' : 'r+');
	let moved = 0;
	for (let at = 0; at < sizeBytes;) {
		for (const {length, flags} of (await client.blockStatus(at, sizeBytes - at)).get(context) ?? []) {
			if (changes === null || flags === 1) {
				await file.write(await client.read(at, length), 0, length, at);
				moved += length;
			}
			at += length;
		}
	}
	await file.close();
	await client.close();
	process.stderr.write(`${disk}: ${changes ?? 'all'}, ${moved}\n`);
}
process.exitCode = Number(status);
