import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError} from '../errors.ts';
import {commandLineFacts} from '../host/command-line-facts.ts';
import {parseCommandLine} from '../host/command-line.ts';
import {listQemuProcesses} from '../host/processes.ts';
import {openersOf} from '../host/writers.ts';
import {readQcow2Header} from '../images/qcow2-header.ts';

/** By which an image is in use, in words, by the image's path. */
export type ImageUsers = ReadonlyMap<string, string>;

/** The processes that have images open, as far as this user may see them. */
export async function processesUsing(files: readonly string[], except: readonly number[]): Promise<ImageUsers> {
	const openers = await openersOf(files, [process.pid, ...except]);
	if (openers.size === 0) return new Map();
	const names = new Map(
		(await listQemuProcesses()).map(({pid, argv}) => [pid, commandLineFacts(parseCommandLine(argv.slice(1))).name]),
	);
	return new Map(
		Array.from(openers, ([file, {pid, name}]) => {
			const vm = names.get(pid);
			return [file, vm === undefined ? `process ${pid} (${name})` : `VM ${vm} (process ${pid})`];
		}),
	);
}

/**
 * The images that lie on others, found by their headers in the folders of these and in `folders`; but for those of
 * `except`. Only qcow2 images name what they lie on so that it is looked for here.
 */
export async function imagesOver(
	files: readonly string[],
	{folders = [], except = []}: {readonly folders?: readonly string[]; readonly except?: readonly string[]} = {},
): Promise<ImageUsers> {
	const wanted = new Map(await Promise.all(files.map(async file => [await realPath(file), file] as const)));
	const passed = new Set(await Promise.all(except.map(realPath)));
	const users = new Map<string, string>();
	for (const folder of new Set([...files.map(file => path.dirname(file)), ...folders])) {
		for (const entry of await fs.readdir(folder, {withFileTypes: true})) {
			const image = path.join(folder, entry.name);
			if (!entry.isFile() || passed.has(await realPath(image))) continue;
			const below = await backingOf(image);
			const file = below === undefined ? undefined : wanted.get(await realPath(below));
			if (file !== undefined) users.set(file, `${image}, which lies on it`);
		}
	}
	return users;
}

async function backingOf(image: string): Promise<string | undefined> {
	try {
		const {backingFile} = await readQcow2Header(image);
		return backingFile === null ? undefined : pathIn(backingFile, path.dirname(image));
	} catch (error) {
		// No qcow2 image, not for this user to read, or gone.
		if (error instanceof QuiesceError || errnoOf(error) !== undefined) return undefined;
		throw error;
	}
}

/** Undefined for what is on no file system of this host. */
function pathIn(name: string, folder: string): string | undefined {
	if (name.startsWith('json:')) {
		const found = /"filename":\s*(?<file>"(?:[^"\\]|\\.)*")/.exec(name)?.groups?.['file'];
		return found === undefined ? undefined : path.resolve(folder, String(JSON.parse(found)));
	}
	const plain = name.replace(/^file:/, '');
	return /^[^/]*:/.test(plain) ? undefined : path.resolve(folder, plain);
}

async function realPath(file: string): Promise<string> {
	return fs.realpath(file).catch(() => file);
}
