import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import {asError, QuiesceError} from '../errors.ts';

/**
 * Where runs keep sockets and markers that mean nothing after a reboot: `$QUIESCE_RUNTIME_DIR`, else `/run/quiesce` for
 * root, else a folder of the user's own. Only its owner may read it; others may pass through to a socket that was
 * given to them.
 */
export async function runtimeFolder(): Promise<string> {
	const folder = location();
	const stat = await fs
		.mkdir(folder, {recursive: true, mode: 0o711})
		.then(() => fs.lstat(folder))
		.catch((error: unknown) => {
			throw new QuiesceError('FAILED', `cannot make the folder ${folder}: ${asError(error).message}`, {
				cause: error,
				hint: 'Name another with QUIESCE_RUNTIME_DIR.',
			});
		});
	if (!stat.isDirectory() || stat.uid !== process.getuid?.() || (stat.mode & 0o066) !== 0) {
		throw new QuiesceError('FAILED', `${folder} is not a folder that only this user can write and list`, {
			hint: 'Remove it, or name another with QUIESCE_RUNTIME_DIR.',
		});
	}
	return folder;
}

function location(): string {
	const {QUIESCE_RUNTIME_DIR: named, XDG_RUNTIME_DIR: session} = process.env;
	if (named) return path.resolve(named);
	const uid = process.getuid?.() ?? 0;
	if (uid === 0) return '/run/quiesce';
	return session ? path.join(session, 'quiesce') : path.join(os.tmpdir(), `quiesce-${uid}`);
}
