import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf} from '../errors.ts';
import {fileError, syncFolder, writeDurably} from './durable-files.ts';
import {PROTECTED_FILE} from './layout.ts';
import type {Point} from './points.ts';

/** Marks a point as one that no rule is to remove. Returns false if it was already. */
export async function markProtected({folder}: Pick<Point, 'folder'>): Promise<boolean> {
	const file = path.join(folder, PROTECTED_FILE);
	try {
		await writeDurably(file, '');
		await syncFolder(folder);
		return true;
	} catch (error) {
		if (errnoOf(error) === 'EEXIST') return false;
		throw fileError('create', file, error);
	}
}

/** Returns false if it was not protected. */
export async function clearProtected({folder}: Pick<Point, 'folder'>): Promise<boolean> {
	const file = path.join(folder, PROTECTED_FILE);
	try {
		await fs.unlink(file);
		await syncFolder(folder);
		return true;
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return false;
		throw fileError('remove', file, error);
	}
}
