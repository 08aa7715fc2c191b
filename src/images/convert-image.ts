import fs from 'node:fs/promises';
import type {Observable} from 'rxjs';
import {absolute, type Compression, type ImageFormat, reserveFile} from './qemu-img.ts';
import {runTool} from './run-tool.ts';
import {streamTask} from '../rx/task-stream.ts';

export interface ConvertOptions {
	readonly source: string;
	readonly sourceFormat: ImageFormat;
	/** `new-file` must not exist; it is removed if the copy fails. A `device` is overwritten from its start. */
	readonly targetKind: 'new-file' | 'device';
	readonly target: string;
	readonly targetFormat: ImageFormat;
	/** Of a qcow2 target; not at all by default. */
	readonly compression?: Compression | undefined;
	/** Lets the kernel copy, which shares data where the file system can. Not with a compression. */
	readonly offload?: boolean;
	/** Aborting fails the stream with the reason, once the child is gone. */
	readonly signal?: AbortSignal | undefined;
}

/**
 * Copies an image, with all that it is backed by. Cold: each subscription starts one copy; unsubscribing ends it. Emits
 * the part that is done, from 0 to 1. What was written may still be in the page cache: the caller syncs.
 */
export function convertImage({signal, ...options}: ConvertOptions): Observable<number> {
	return streamTask<number>(signal, async (emit, ended) => {
		const {targetKind} = options;
		const source = absolute(options.source);
		const target = absolute(options.target);
		ended.throwIfAborted();
		if (targetKind === 'new-file') await reserveFile(target);
		try {
			await runTool({
				tool: 'qemu-img',
				args: [
					...['convert', '-p', '-f', options.sourceFormat, '-O', options.targetFormat],
					...(targetKind === 'device' ? ['-n'] : []),
					...(options.compression === 'zstd' ? ['-c', '-o', 'compression_type=zstd'] : []),
					...(options.offload === true ? ['-C'] : []),
					...[source, target],
				],
				object: target,
				signal: ended,
				onOutput: progressReader(emit),
			});
		} catch (error) {
			if (targetKind === 'new-file') await fs.rm(target, {force: true});
			throw error;
		}
	});
}

/** Reads `(12.34/100%)`, wherever the output is cut, and tells each step forward. */
export function progressReader(emit: (done: number) => void): (text: string) => void {
	let rest = '';
	let last = -1;
	return text => {
		rest += text;
		for (const match of rest.matchAll(/\((?<percent>\d+(?:\.\d+)?)\/100%\)/g)) {
			const done = Number(match.groups?.['percent']) / 100;
			if (done > last) emit((last = done));
		}
		rest = rest.slice(rest.lastIndexOf(')') + 1).slice(-64);
	};
}
