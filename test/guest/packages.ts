import {mkdir, readdir, rm, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {output} from './command.ts';

/** Of what the packages depend on, the guest needs the shared libraries and the kernel that a meta package names. */
const wanted = /^(lib[a-z0-9]|zlib1g$|linux-image-\d)/;

/**
 * Unpacks Debian packages, with the libraries that they depend on, into `root` without installing them.
 * `scratch` is an empty folder for the downloads. Returns what was unpacked, as `name version` lines.
 */
export const unpackPackages = async (names: readonly string[], root: string, scratch: string): Promise<string[]> => {
	const debs = join(scratch, 'debs');
	await mkdir(debs, {recursive: true});
	// A download by root into a folder of root's works, but apt warns that its own user cannot read there.
	const hostLists = ['-o', 'APT::Sandbox::User=root'];
	try {
		await download(names, debs, hostLists);
	} catch {
		// The machine's package lists are missing or too old: fetch lists of our own, which needs no root.
		await rm(debs, {recursive: true});
		await mkdir(debs);
		await download(names, debs, await freshLists(scratch, hostLists));
	}
	const unpacked: string[] = [];
	for (const deb of (await readdir(debs)).sort()) {
		const path = join(debs, deb);
		await output('dpkg-deb', ['-x', path, root]);
		unpacked.push((await output('dpkg-deb', ['-W', '--showformat=${Package} ${Version}', path])).trim());
	}
	return unpacked;
};

const download = async (names: readonly string[], folder: string, options: readonly string[]): Promise<void> => {
	const all = new Set<string>();
	for (let fresh = [...names]; fresh.length > 0;) {
		for (const name of fresh) all.add(name);
		fresh = (await dependencies(fresh, options)).filter(name => wanted.test(name) && !all.has(name));
	}
	await output('apt-get', [...options, 'download', ...all], folder);
};

const dependencies = async (names: readonly string[], options: readonly string[]): Promise<string[]> => {
	const only = ['recommends', 'suggests', 'conflicts', 'breaks', 'replaces', 'enhances'].map(kind => `--no-${kind}`);
	const text = await output('apt-cache', [...options, 'depends', ...only, ...names]);
	const found = Array.from(text.matchAll(/^[ |]*(?:Pre)?Depends: (?<name>[a-z0-9][a-z0-9.+-]*)/gm), match => match[1]!);
	return [...new Set(found)];
};

const freshLists = async (scratch: string, options: readonly string[]): Promise<string[]> => {
	const [state, cache] = [join(scratch, 'apt/state'), join(scratch, 'apt/cache')];
	await mkdir(join(state, 'lists/partial'), {recursive: true});
	await mkdir(join(cache, 'archives/partial'), {recursive: true});
	// No dpkg status: what is installed here must not matter.
	await writeFile(join(state, 'status'), '');
	const own = [
		`Dir::State=${state}`,
		`Dir::State::lists=${join(state, 'lists')}`,
		`Dir::State::status=${join(state, 'status')}`,
		`Dir::Cache=${cache}`,
	];
	const all = [...options, ...own.flatMap(option => ['-o', option])];
	await output('apt-get', [...all, 'update']);
	return all;
};
