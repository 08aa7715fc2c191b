import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {errnoOf, UsageError} from '../errors.ts';
import {formatDocument, parseDocument} from './document.ts';
import {readDocument, removeIfEmpty, replaceDurably, syncFolder} from './durable-files.ts';
import {vmFolder} from './layout.ts';
import {bytes, recordedMembers, type StoredDisk, time, writerMembers, type QemuProcess} from './manifest.ts';
import {isPointId} from './point-id.ts';
import type {Repository} from './repository.ts';

const FOLDER = 'exposed';
const FORMAT = 1;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;

/** A disk as it was exposed, and what has recorded its changes since; null where nothing did. */
export type ExposedState = Pick<StoredDisk, 'name' | 'sizeBytes' | 'format' | 'deviceType' | 'bitmap' | 'source'>;

/** What somebody has read of a VM and keeps elsewhere, so that he needs what has changed since alone. */
export interface ExposedBase {
	readonly name: string;
	readonly vm: string;
	readonly run: string;
	readonly cutAt: string;
	readonly qemu: {readonly version: string; readonly package: string; readonly process: QemuProcess | null};
	readonly tool: {readonly version: string};
	readonly disks: readonly ExposedState[];
}

const schema: v.GenericSchema<unknown, ExposedBase & {readonly format: number}> = v.looseObject({
	format: v.literal(FORMAT),
	name: v.pipe(v.string(), v.regex(NAME, 'not a name')),
	vm: v.pipe(v.string(), v.nonEmpty()),
	run: v.string(),
	cutAt: time,
	...writerMembers,
	disks: v.array(
		v.looseObject({
			name: v.pipe(v.string(), v.nonEmpty()),
			sizeBytes: bytes,
			format: v.string(),
			deviceType: v.nullable(v.string()),
			...recordedMembers,
		}),
	),
});

/** Throws for a name that could be a point's, or no file's. */
export function requireBaseName(name: string): void {
	if (NAME.test(name) && !isPointId(name)) return;
	throw new UsageError(`'${name}' cannot name what is exposed`, {
		hint: 'Letters, digits, dots, dashes and underscores make a name; the id of a point does not.',
	});
}

/** Undefined where there is none of that name. Throws `DAMAGED` for one that cannot be read. */
export async function readExposed(repository: Repository, vm: string, name: string): Promise<ExposedBase | undefined> {
	const file = fileOf(repository, vm, name);
	try {
		return parseDocument(schema, FORMAT, await readDocument(file), file);
	} catch (error) {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined;
		throw error;
	}
}

export async function listExposed(repository: Repository, vm: string): Promise<readonly ExposedBase[]> {
	const folder = path.join(vmFolder(repository.path, vm), FOLDER);
	const names = await fs.readdir(folder).catch((error: unknown) => {
		if (errnoOf(error) === 'ENOENT') return [];
		throw error;
	});
	const bases = await Promise.all(
		names
			.map(file => file.replace(/\.json$/, ''))
			.filter(name => NAME.test(name))
			.map(name => readExposed(repository, vm, name)),
	);
	return bases.filter(base => base !== undefined);
}

/** Durably, in place of another of that name. */
export async function writeExposed(repository: Repository, base: ExposedBase): Promise<void> {
	const file = fileOf(repository, base.vm, base.name);
	await fs.mkdir(path.dirname(file), {recursive: true, mode: 0o700});
	await syncFolder(path.dirname(path.dirname(file)));
	await replaceDurably(file, formatDocument({format: FORMAT, ...base}));
}

export async function removeExposed(repository: Repository, vm: string, name: string): Promise<void> {
	const file = fileOf(repository, vm, name);
	await fs.rm(file, {force: true});
	await syncFolder(path.dirname(file));
	await removeIfEmpty(path.dirname(file));
}

function fileOf({path: folder}: Repository, vm: string, name: string): string {
	return path.join(vmFolder(folder, vm), FOLDER, `${name}.json`);
}
