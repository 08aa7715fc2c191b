import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {errnoOf, QuiesceError} from '../errors.ts';
import {systemReason} from './plain-file.ts';
import {lastLine, runTool} from './run-tool.ts';

export type ImageFormat = 'raw' | 'qcow2';
export type Compression = 'none' | 'zstd';

export interface CreateOptions {
	/** What the guest sees; QEMU rounds it up to whole sectors of 512 bytes. */
	readonly sizeBytes: number;
	readonly compression: Compression;
	/** An image to lie on, as the new one is to name it: relative to its own folder. It must exist and have that size. */
	readonly backing?: {readonly file: string; readonly format: string} | undefined;
	/** Default 64 KiB. */
	readonly clusterBytes?: number | undefined;
}

/**
 * Creates an empty qcow2 image that only this user can read and write. `zstd` fixes how clusters are compressed *if*
 * they are written compressed; QEMU before 5.1 cannot read such an image. Fails if `image` exists.
 */
export async function createImage(
	image: string,
	{sizeBytes, compression, backing, clusterBytes = 64 * 1024}: CreateOptions,
): Promise<void> {
	const file = absolute(image);
	const compressed = compression === 'zstd' ? ['compression_type=zstd'] : [];
	const options = ['compat=1.1', `cluster_size=${clusterBytes}`, ...compressed];
	await reserveFile(file);
	try {
		await runTool({
			tool: 'qemu-img',
			args: [
				...['create', '-q', '-f', 'qcow2', '-o', options.join(',')],
				// It is named and not opened: nobody must be kept from reading it meanwhile.
				...(backing === undefined ? [] : ['-u', '-b', backing.file, '-F', backing.format]),
				...[file, String(sizeBytes)],
			],
			object: file,
		});
	} catch (error) {
		await fs.rm(file, {force: true});
		throw error;
	}
}

/** Makes the file before QEMU does, which would let everybody read it and would overwrite an older one. */
export async function reserveFile(file: string): Promise<void> {
	try {
		await (await fs.open(file, 'wx', 0o600)).close();
	} catch (error) {
		const why = errnoOf(error) === 'EEXIST' ? 'it exists' : systemReason(error);
		throw new QuiesceError('FAILED', `cannot create ${file}: ${why}`, {cause: error});
	}
}

const infoSchema = v.object({
	'virtual-size': v.number(),
	'format': v.string(),
	'backing-filename': v.optional(v.string()),
	'backing-filename-format': v.optional(v.string()),
	'format-specific': v.optional(
		v.object({
			data: v.looseObject({
				'data-file': v.optional(v.string()),
				'compression-type': v.optional(v.string()),
				'corrupt': v.optional(v.boolean()),
			}),
		}),
	),
});

export interface ImageInfo {
	readonly format: string;
	readonly virtualSizeBytes: number;
	/** As it is written in the image. */
	readonly backingFile: string | null;
	readonly backingFormat: string | null;
	readonly dataFile: string | null;
	readonly compressionType: string | null;
	readonly state: 'sound' | 'marked-corrupt';
}

/** What an image says of itself, or the size of a block device. `format` is never guessed: a guest can forge a header. */
export async function imageInfo(image: string, format: ImageFormat, signal?: AbortSignal): Promise<ImageInfo> {
	const file = absolute(image);
	const args = ['info', '--output=json', '-f', format, file];
	const {stdout} = await runTool({tool: 'qemu-img', args, object: file, signal});
	const info = v.parse(infoSchema, JSON.parse(stdout));
	const specific = info['format-specific']?.data;
	return {
		format: info.format,
		virtualSizeBytes: info['virtual-size'],
		backingFile: info['backing-filename'] ?? null,
		backingFormat: info['backing-filename-format'] ?? null,
		dataFile: specific?.['data-file'] ?? null,
		compressionType: specific?.['compression-type'] ?? null,
		state: specific?.corrupt ? 'marked-corrupt' : 'sound',
	};
}

const checkSchema = v.object({
	'corruptions': v.optional(v.number(), 0),
	'check-errors': v.optional(v.number(), 0),
	'leaks': v.optional(v.number(), 0),
});

/** An image without problems is sound; a warning is about space that it wastes. */
export interface ImageCheck {
	readonly problems: readonly string[];
	readonly warnings: readonly string[];
}

/** Checks the structure of a closed image. One that cannot be opened has a problem; that is not thrown. */
export async function checkImage(image: string, format: 'qcow2', signal?: AbortSignal): Promise<ImageCheck> {
	const tool = 'qemu-img';
	const file = absolute(image);
	const args = ['check', '--output=json', '-f', format, file];
	const {stdout, stderr, exitCode} = await runTool({tool, args, object: file, signal, answers: [0, 1, 2, 3]});
	if (stdout.trim() === '') {
		return {problems: [lastLine({tool}, stderr) ?? `qemu-img check ended with ${exitCode}`], warnings: []};
	}
	const {corruptions, 'check-errors': errors, leaks} = v.parse(checkSchema, JSON.parse(stdout));
	const problems = [
		...(corruptions > 0 ? [`qemu-img check found ${corruptions} corruptions`] : []),
		...(errors > 0 ? [`qemu-img check could not check everything (${errors} errors)`] : []),
	];
	if (problems.length === 0 && exitCode !== 0 && exitCode !== 3) {
		problems.push(lastLine({tool}, stderr) ?? `qemu-img check ended with ${exitCode}`);
	}
	return {problems, warnings: leaks > 0 ? [`${leaks} clusters are leaked: space is wasted, nothing is lost`] : []};
}

/** Frees the clusters that nothing in a closed image uses; nothing else is changed. */
export async function freeLeaks(image: string, signal?: AbortSignal): Promise<void> {
	const file = absolute(image);
	const args = ['check', '-q', '-r', 'leaks', '-f', 'qcow2', file];
	await runTool({tool: 'qemu-img', args, object: file, signal, answers: [0, 3]});
}

/** How many bytes a copy of a qcow2 image, with all that it is backed by, occupies. */
export async function measureImage(image: string, signal?: AbortSignal): Promise<number> {
	const file = absolute(image);
	const args = ['measure', '--output=json', '-f', 'qcow2', '-O', 'qcow2', file];
	const {stdout} = await runTool({tool: 'qemu-img', args, object: file, signal});
	return v.parse(v.object({required: v.number()}), JSON.parse(stdout)).required;
}

/** QEMU takes what precedes a colon for a protocol (`nbd:`, `json:`), and a leading dash for an option, unless a slash comes first. */
export function absolute(file: string): string {
	return path.resolve(file);
}
