import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError, UsageError} from '../errors.ts';
import {fileError, isThere, replaceBy, syncFile, syncFolder} from '../repository/durable-files.ts';
import {AGENT_SETTINGS, DISPATCHER, findHook, readScript, SETTINGS} from './kit.ts';

/** Where QEMU's agent looks for its settings and, unless they say another place, for its hook. */
const FOLDER = 'etc/qemu';

export interface InstallRequest {
	/** The root of the guest's file systems: `/` in the guest, or the folder in which its disk is mounted. */
	readonly root: string;
	/** Names of hooks. */
	readonly hooks: readonly string[];
	/** Replace files that are not as ours; what was there stays beside them, as `NAME.orig`. */
	readonly replace: boolean;
	readonly dryRun: boolean;
}

export interface InstalledFile {
	readonly path: string;
	/** `kept` is for settings, which are the operator's once they are there. */
	readonly change: 'new' | 'unchanged' | 'replaced' | 'kept';
}

interface PlannedFile extends InstalledFile {
	readonly text: string;
	readonly mode: number;
}

/**
 * Puts the dispatcher, settings and some hooks where the guest agent finds them. Nothing is written if one of them
 * cannot be, and nothing outside of the root, whatever links are in it.
 */
export async function installHooks(request: InstallRequest): Promise<InstalledFile[]> {
	const root = await fs.realpath(request.root).catch((error: unknown) => {
		throw fileError('find', request.root, error);
	});
	const files: PlannedFile[] = [];
	for (const [name, mode] of [
		[DISPATCHER, 0o755],
		[SETTINGS, 0o600],
		[AGENT_SETTINGS, 0o644],
		...request.hooks.map(hook => [`${DISPATCHER}.d/${findHook(hook).name}`, 0o755] as const),
	] as const) {
		files.push(await plan(root, name, mode));
	}
	const foreign = files.filter(({change}) => change === 'replaced').map(file => file.path);
	if (foreign.length > 0 && !request.replace) {
		throw new QuiesceError('REFUSED', `${foreign.join(', ')}: there is another file of this name`, {
			hint: 'With --replace it is kept as NAME.orig, and replaced.',
		});
	}
	if (!request.dryRun) for (const file of files) await write(file);
	return files.map(({path: file, change}) => ({path: file, change}));
}

async function plan(root: string, name: string, mode: number): Promise<PlannedFile> {
	const file = path.join(root, FOLDER, name);
	await requireInside(root, file);
	const text = await readScript(path.basename(name));
	const found = await readIfThere(file);
	const planned = {path: file, text, mode};
	if (found === undefined) return {...planned, change: 'new'};
	if (name === SETTINGS || name === AGENT_SETTINGS) return {...planned, change: 'kept'};
	return {...planned, change: found === text ? 'unchanged' : 'replaced'};
}

async function readIfThere(file: string): Promise<string | undefined> {
	if (!(await isThere(file))) return undefined;
	try {
		const {size} = await fs.stat(file);
		return size > 1 << 20 ? '' : await fs.readFile(file, 'utf8');
	} catch (error) {
		throw fileError('read', file, error);
	}
}

/** A link in the root of a guest, which may be hostile, is one in the guest: here it would lead out of it. */
async function requireInside(root: string, file: string): Promise<void> {
	let step = root;
	for (const part of path.relative(root, file).split(path.sep)) {
		step = path.join(step, part);
		const stat = await fs.lstat(step).catch((error: unknown) => {
			if (errnoOf(error) === 'ENOENT') return undefined;
			throw fileError('look at', step, error);
		});
		if (stat === undefined) return;
		if (stat.isSymbolicLink()) {
			throw new UsageError(`${step} is a link, which is not followed`, {
				hint: 'Name the root of the guest with --root; put a file or a folder in place of the link.',
			});
		}
		if (step !== file ? !stat.isDirectory() : !stat.isFile()) {
			throw new UsageError(`${step} is not a ${step === file ? 'file' : 'folder'}`);
		}
	}
}

async function write({path: file, text, mode, change}: PlannedFile): Promise<void> {
	if (change === 'kept') return;
	try {
		if (change === 'unchanged') {
			await fs.chmod(file, mode);
			return;
		}
		await fs.mkdir(path.dirname(file), {recursive: true});
		if (change === 'replaced') await keepBeside(file);
		await replaceBy(file, async fresh => {
			await fs.writeFile(fresh, text, {flag: 'wx', mode, flush: true});
			// Whatever the umask is.
			await fs.chmod(fresh, mode);
		});
		await syncFolder(path.dirname(path.dirname(file)));
	} catch (error) {
		throw fileError('write', file, error);
	}
}

/** As `NAME.orig` or, where that is taken, `NAME.1.orig` and so on: what has such a name stays, and a link is not followed. */
async function keepBeside(file: string): Promise<void> {
	for (let taken = 0; ; taken++) {
		const kept = taken === 0 ? `${file}.orig` : `${file}.${taken}.orig`;
		try {
			await fs.copyFile(file, kept, fs.constants.COPYFILE_EXCL);
			await syncFile(kept);
			return;
		} catch (error) {
			if (errnoOf(error) !== 'EEXIST') throw error;
		}
	}
}
