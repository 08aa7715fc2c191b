import {randomUUID} from 'node:crypto';
import {constants} from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf} from '../errors.ts';
import {fileFailure} from './plain-file.ts';

/** What a file system says that cannot share the data of files (ioctl_ficlonerange(2)). */
const CANNOT = new Set(['EOPNOTSUPP', 'ENOTSUP', 'ENOTTY', 'EINVAL', 'EXDEV', 'ENOSYS']);

/** Makes a file that shares its data with another one until either is written to. Fails where the file system cannot. */
export async function cloneFile(from: string, to: string): Promise<void> {
	try {
		await fs.copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE);
		await fs.chmod(to, 0o600);
	} catch (error) {
		throw fileFailure('clone', from, error);
	}
}

/** Tries it with two hidden files in `folder`, which it removes. */
export async function canClone(folder: string): Promise<boolean> {
	const [from, to] = ['from', 'to'].map(name => path.join(folder, `.clone-${randomUUID()}.${name}`)) as [
		string,
		string,
	];
	try {
		await fs.writeFile(from, Buffer.alloc(4096), {flag: 'wx', mode: 0o600});
		await fs.copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE);
		return true;
	} catch (error) {
		if (CANNOT.has(errnoOf(error) ?? '')) return false;
		throw fileFailure('write to', folder, error);
	} finally {
		await fs.rm(from, {force: true});
		await fs.rm(to, {force: true});
	}
}

/** Whether a file's data can be shared with files in `folder`: both are in one file system, which can do that. */
export async function canShareWith(file: string, folder: string): Promise<boolean> {
	const [{dev}, {dev: there}] = [await fs.stat(file), await fs.stat(folder)];
	return dev === there && (await canClone(folder));
}
