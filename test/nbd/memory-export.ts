import {setImmediate} from 'node:timers/promises';
import type {NbdExport} from '../../src/nbd/export.ts';
import {STATE_HOLE, STATE_ZERO, type StatusExtent} from '../../src/nbd/protocol.ts';

const BLOCK = 4096;

/** An export of the bytes of a buffer. It answers each request after a while, so that they pass one another. */
export function memoryExport(content: Buffer, more: Partial<NbdExport> = {}): NbdExport & {flushes: number} {
	let turn = 0;
	const aWhile = async (): Promise<void> => {
		for (let left = turn++ % 3; left > 0; left--) await setImmediate();
	};
	const shown = {
		sizeBytes: content.length,
		contexts: ['base:allocation'],
		flushes: 0,
		read: async (offset: number, into: Buffer) => {
			await aWhile();
			content.copy(into, 0, offset, offset + into.length);
		},
		write: async (offset: number, data: Buffer) => {
			await aWhile();
			data.copy(content, offset);
		},
		writeZeroes: async (offset: number, length: number) => {
			await aWhile();
			content.fill(0, offset, offset + length);
		},
		trim: async () => {
			await aWhile();
		},
		flush: async () => {
			await aWhile();
			shown.flushes++;
		},
		blockStatus: (_context: string, offset: number, length: number, limit: number) =>
			Promise.resolve(allocation(content, offset, length, limit)),
		...more,
	};
	return shown;
}

/** Blocks of zeroes are holes. */
function allocation(content: Buffer, offset: number, length: number, limit: number): StatusExtent[] {
	const extents: {length: number; flags: number}[] = [];
	for (let at = offset; at < offset + length;) {
		const end = Math.min((Math.floor(at / BLOCK) + 1) * BLOCK, offset + length);
		const flags = content.subarray(at, end).every(byte => byte === 0) ? STATE_HOLE | STATE_ZERO : 0;
		const last = extents.at(-1);
		if (last?.flags === flags) last.length += end - at;
		else if (extents.length === limit) break;
		else extents.push({length: end - at, flags});
		at = end;
	}
	return extents;
}

/** Random data with zeroes in between, of a size that is a multiple of nothing but 512. */
export function sampleContent(sizeBytes: number): Buffer {
	const content = Buffer.alloc(sizeBytes);
	let state = 1;
	for (let at = 0; at < sizeBytes; at += 512) {
		if (Math.floor(at / 50_000) % 3 === 1) continue;
		for (let word = at; word + 4 <= Math.min(at + 512, sizeBytes); word += 4) {
			state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
			content.writeUInt32LE(state, word);
		}
	}
	return content;
}
