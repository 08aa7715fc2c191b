import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError} from '../errors.ts';
import {openPlainFile, systemReason} from '../images/plain-file.ts';

/** Larger than any document of ours; a hostile one must not fill the memory. */
const MAX_DOCUMENT_BYTES = 16 * 1024 * 1024;

/** Network and FAT file systems may lack one of these; the data is then as safe as they make it. */
const UNSUPPORTED = new Set(['EINVAL', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS']);
const WITHOUT_LINKS = new Set([...UNSUPPORTED, 'EPERM', 'EMLINK']);

/** Writes a new file that only this user may read, and waits until it is on the disk. Its folder is not synced. */
export async function writeDurably(file: string, text: string): Promise<void> {
	const handle = await fs.open(file, 'wx', 0o600);
	try {
		await handle.writeFile(text);
		await handle.sync();
	} finally {
		await handle.close();
	}
}

/** Gives a file another content, or makes it: at every moment, and after a power cut, it has either the one or the other. */
export async function replaceDurably(file: string, text: string): Promise<void> {
	await replaceBy(file, fresh => writeDurably(fresh, text));
}

/** The same for a file that `write` makes, and syncs. Left over from a run that died, it is made again. */
export async function replaceBy(file: string, write: (fresh: string) => Promise<void>): Promise<void> {
	const folder = path.dirname(file);
	const fresh = path.join(folder, `.${path.basename(file)}.new`);
	await fs.rm(fresh, {force: true});
	await write(fresh);
	await fs.rename(fresh, file);
	await syncFolder(folder);
}

/** Waits until what any process wrote to the file is on the disk. */
export async function syncFile(file: string): Promise<void> {
	const handle = await openPlainFile(file);
	try {
		await handle.sync();
	} finally {
		await handle.close();
	}
}

/** Waits until the names in a folder are on the disk. */
export async function syncFolder(folder: string): Promise<void> {
	const handle = await fs.open(folder, 'r');
	try {
		await handle.sync();
	} catch (error) {
		if (!UNSUPPORTED.has(errnoOf(error) ?? '')) throw error;
	} finally {
		await handle.close();
	}
}

/** Gives a file a name that must be free; throws `EEXIST` otherwise. The folder is not synced. */
export async function moveToFreeName(from: string, to: string): Promise<void> {
	try {
		await fs.link(from, to);
	} catch (error) {
		if (!WITHOUT_LINKS.has(errnoOf(error) ?? '')) throw error;
		await fs.rename(from, to);
		return;
	}
	await fs.unlink(from);
}

/** Whether there is anything of that name, a link that leads nowhere included. */
export async function isThere(file: string): Promise<boolean> {
	try {
		await fs.lstat(file);
		return true;
	} catch (error) {
		if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return false;
		throw fileError('read', file, error);
	}
}

/** The text of a document in a repository. Throws the system's error, or `DAMAGED` if it cannot be one of ours. */
export async function readDocument(file: string): Promise<string> {
	const handle = await openPlainFile(file);
	try {
		if ((await handle.stat()).size > MAX_DOCUMENT_BYTES) {
			throw new QuiesceError('DAMAGED', `${file} is too large for a document`);
		}
		return await handle.readFile('utf8');
	} finally {
		await handle.close();
	}
}

/** Removes a file or a tree, of which nothing may be left. Links in it are removed, not followed. */
export async function removeTree(tree: string): Promise<void> {
	await fs.rm(tree, {recursive: true, force: true});
}

/** Removes a folder that nothing is in any more. */
export async function removeIfEmpty(folder: string): Promise<void> {
	await fs.rmdir(folder).catch((error: unknown) => {
		if (!['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(errnoOf(error) ?? '')) throw error;
	});
}

/** The system's error as one for people: `cannot create /x: permission denied`. */
export function fileError(doing: string, file: string, error: unknown): QuiesceError {
	if (error instanceof QuiesceError) return error;
	const hint =
		errnoOf(error) === 'EACCES' ? `Run as the user who owns ${path.dirname(file)}, or change its owner.` : undefined;
	return new QuiesceError('FAILED', `cannot ${doing} ${file}: ${systemReason(error)}`, {cause: error, hint});
}
