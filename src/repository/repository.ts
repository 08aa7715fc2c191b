import {randomUUID} from 'node:crypto';
import {constants} from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {errnoOf, QuiesceError} from '../errors.ts';
import {parseDocument, formatDocument} from './document.ts';
import {fileError, moveToFreeName, readDocument, removeTree, syncFolder, writeDurably} from './durable-files.ts';
import {REPOSITORY_FILE, VMS_FOLDER} from './layout.ts';

export const REPOSITORY_FORMAT = 1;

/** A folder with points of VMs. */
export interface Repository {
	/** Absolute, links resolved. */
	readonly path: string;
	/** Random, for life. */
	readonly id: string;
}

const schema = v.looseObject({
	format: v.literal(REPOSITORY_FORMAT),
	id: v.pipe(v.string(), v.nonEmpty()),
});

/** Opens a repository for reading. Throws `NO_REPOSITORY` if there is none. */
export async function openRepository(folder: string): Promise<Repository> {
	const real = await realFolder(folder);
	const repository = await read(real);
	if (repository) return repository;
	throw new QuiesceError('NO_REPOSITORY', `${real} is not a repository: it has no ${REPOSITORY_FILE}`, {
		hint: 'Name the folder that the first backup was given. A backup makes a repository of an empty folder.',
	});
}

/** As {@link openOrCreateRepository}, to plan only: an empty folder stays one, and its repository has no id yet. */
export async function previewRepository(folder: string): Promise<Repository> {
	const real = await realFolder(folder);
	try {
		await fs.access(real, constants.W_OK | constants.X_OK);
		const found = await read(real);
		if (!found) await requireEmpty(real);
		return found ?? {path: real, id: ''};
	} catch (error) {
		throw fileError('write to the repository', real, error);
	}
}

/** Opens a repository to write to it; a folder that exists and is empty becomes one. */
export async function openOrCreateRepository(folder: string): Promise<Repository> {
	const real = await realFolder(folder);
	try {
		await fs.access(real, constants.W_OK | constants.X_OK);
		const repository = (await read(real)) ?? (await create(real));
		await fs.mkdir(path.join(real, VMS_FOLDER), {mode: 0o700}).catch(unlessItExists);
		await fs.access(path.join(real, VMS_FOLDER), constants.W_OK | constants.X_OK);
		return repository;
	} catch (error) {
		throw fileError('write to the repository', real, error);
	}
}

async function realFolder(folder: string): Promise<string> {
	try {
		const real = await fs.realpath(folder);
		if ((await fs.stat(real)).isDirectory()) return real;
	} catch (error) {
		if (errnoOf(error) !== 'ENOENT') throw fileError('open the repository', folder, error);
		throw new QuiesceError('NO_REPOSITORY', `there is no repository ${folder}: the folder does not exist`, {
			cause: error,
			hint: 'Is its file system mounted? For a new repository, make the folder first: it is never made for you.',
		});
	}
	throw new QuiesceError('NO_REPOSITORY', `there is no repository ${folder}: it is not a folder`);
}

async function read(real: string): Promise<Repository | undefined> {
	const file = path.join(real, REPOSITORY_FILE);
	try {
		const {id} = parseDocument(schema, REPOSITORY_FORMAT, await readDocument(file), file);
		return {path: real, id};
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return undefined;
		throw fileError('read', file, error);
	}
}

/** What an empty file system has, and what a run leaves that dies below. */
const notContent = /^(lost\+found|\.repository\.[0-9a-f-]+\.new)$/;

async function requireEmpty(real: string): Promise<void> {
	const content = (await fs.readdir(real)).filter(name => !notContent.test(name));
	if (content.length === 0) return;
	throw new QuiesceError('NO_REPOSITORY', `${real} is not a repository, and not empty`, {
		hint: 'Name a repository or an empty folder.',
	});
}

async function create(real: string): Promise<Repository> {
	await requireEmpty(real).catch(async (error: unknown) => {
		// Another run may have been faster.
		if (!(await read(real))) throw error;
	});
	const id = randomUUID();
	const fresh = path.join(real, `.repository.${id}.new`);
	try {
		await writeDurably(fresh, formatDocument({format: REPOSITORY_FORMAT, id}));
		await moveToFreeName(fresh, path.join(real, REPOSITORY_FILE)).catch(unlessItExists);
	} finally {
		await removeTree(fresh);
	}
	await syncFolder(real);
	return (await read(real)) ?? {path: real, id};
}

function unlessItExists(error: unknown): void {
	if (errnoOf(error) !== 'EEXIST') throw error;
}
