import type {Dirent} from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import {QuiesceError} from '../errors.ts';
import {readQcow2Header} from './qcow2-header.ts';

/**
 * The first qcow2 image in the folder of `image`, or among `others`, that lies on it; undefined if none is found. A base
 * is not to be written to, nor to be taken for the disk of a VM that goes on from what lies on it.
 */
export async function imageAbove(image: string, others: readonly string[] = []): Promise<string | undefined> {
	const real = await fs.realpath(image);
	const entries = await fs.readdir(path.dirname(real), {withFileTypes: true}).catch((): Dirent[] => []);
	const beside = entries.filter(entry => entry.isFile()).map(({name}) => path.join(path.dirname(real), name));
	for (const candidate of [...beside, ...others]) {
		const backing = await backingOf(candidate);
		if (backing !== undefined && (await fs.realpath(backing).catch(() => undefined)) === real) return candidate;
	}
	return undefined;
}

/** Undefined for whatever cannot be read, or is no such image: what nobody can open lies on nothing. */
async function backingOf(file: string): Promise<string | undefined> {
	try {
		const {backingFile} = await readQcow2Header(file);
		return backingFile === null ? undefined : path.resolve(path.dirname(file), backingFile);
	} catch (error) {
		if (error instanceof QuiesceError || (error instanceof Error && 'code' in error)) return undefined;
		throw error;
	}
}
