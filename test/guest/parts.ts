import {spawn} from 'node:child_process';
import {createHash} from 'node:crypto';
import {once} from 'node:events';
import {createWriteStream} from 'node:fs';
import {
	access,
	chmod,
	copyFile,
	cp,
	mkdir,
	mkdtemp,
	readFile,
	readdir,
	realpath,
	rename,
	rm,
	symlink,
	writeFile,
} from 'node:fs/promises';
import {basename, join} from 'node:path';
import {pipeline} from 'node:stream/promises';
import {fileURLToPath} from 'node:url';
import {outcome, output} from './command.ts';
import {oneAtATime} from './one-at-a-time.ts';
import {unpackPackages} from './packages.ts';

/** What a guest boots from, in the cache folder; not to be changed. */
export interface GuestParts {
	readonly kernel: string;
	readonly initramfs: string;
	/** `name version` of each Debian package in it. */
	readonly packages: readonly string[];
}

const fixtures = fileURLToPath(new URL('../../fixtures/guest/', import.meta.url));
const cache = fileURLToPath(new URL('../../.cache/guest/', import.meta.url));

/**
 * Builds the guest's kernel and initramfs, or finds them built: then there is no network and no work.
 * May be called by many processes at once; one builds and the others wait for it.
 */
export const guestParts = async (): Promise<GuestParts> => {
	const list = JSON.parse(await readFile(join(fixtures, 'parts.json'), 'utf8')) as PartsList;
	const packages = join(cache, `packages-${digest([JSON.stringify(list.packages)])}`);
	const parts = join(cache, `guest-${digest(await inputs())}`);
	// Two stages, so that a changed init or writer is no reason to download again.
	await published(packages, folder => fetchPackages(list, folder));
	await published(parts, folder => assemble(list, packages, folder));
	return {
		kernel: join(parts, 'vmlinuz'),
		initramfs: join(parts, 'initramfs'),
		packages: (await readFile(join(parts, 'packages'), 'utf8')).trim().split('\n'),
	};
};

interface PartsList {
	readonly packages: readonly string[];
	/** Kernel modules, in the order in which they can be loaded. */
	readonly modules: readonly string[];
}

const digest = (texts: readonly (string | Uint8Array)[]): string => {
	const hash = createHash('sha256');
	for (const text of texts) hash.update(text).update('\0');
	return hash.digest('hex').slice(0, 16);
};

const inputs = async (): Promise<Uint8Array[]> => {
	const names = (await readdir(fixtures)).sort();
	return Promise.all([...names.map(name => join(fixtures, name)), import.meta.filename].map(path => readFile(path)));
};

/** A folder that is there is whole: it is built aside and renamed. */
const published = async (folder: string, build: (aside: string) => Promise<void>): Promise<void> => {
	if (await exists(folder)) return;
	await mkdir(cache, {recursive: true});
	await oneAtATime(folder, async () => {
		if (await exists(folder)) return;
		// What a builder that was killed left behind: it held the lock that is ours now.
		const prefix = `building-${basename(folder)}-`;
		for (const name of await readdir(cache)) {
			if (name.startsWith(prefix)) await rm(join(cache, name), {recursive: true, force: true});
		}
		const aside = await mkdtemp(join(cache, prefix));
		try {
			await build(aside);
			// Not only for the user who built it.
			await chmod(aside, 0o755);
			await rename(aside, folder);
		} finally {
			await rm(aside, {recursive: true, force: true});
		}
	});
};

const exists = (path: string): Promise<boolean> =>
	access(path).then(
		() => true,
		() => false,
	);

const fetchPackages = async (list: PartsList, folder: string): Promise<void> => {
	const scratch = join(folder, 'scratch');
	const unpacked = await unpackPackages(list.packages, join(folder, 'root'), scratch);
	await writeFile(join(folder, 'packages'), `${unpacked.join('\n')}\n`);
	await rm(scratch, {recursive: true});
};

const assemble = async (list: PartsList, packages: string, folder: string): Promise<void> => {
	const root = join(packages, 'root');
	const staging = join(folder, 'staging');
	for (const name of ['bin', 'modules', 'lib64', 'lib', 'proc', 'sys', 'dev', 'run', 'mnt', 'etc']) {
		await mkdir(join(staging, name), {recursive: true});
	}
	const files = await filesByName(root);

	await install(join(fixtures, 'init'), join(staging, 'init'));
	for (const name of ['hook', 'control']) await install(join(fixtures, name), join(staging, 'bin', name));
	await compile(join(fixtures, 'writer.c'), join(staging, 'bin/writer'));

	const busybox = found(files, 'busybox');
	await install(busybox, join(staging, 'bin/busybox'));
	for (const applet of (await output(busybox, ['--list'])).trim().split('\n')) {
		if (applet !== 'busybox') await symlink('busybox', join(staging, 'bin', applet));
	}

	const agent = found(files, 'qemu-ga');
	await install(agent, join(staging, 'bin/qemu-ga'));
	for (const library of await libraries(agent, files)) {
		// The loader's place is part of every program; the rest it finds in /lib.
		await install(library, join(staging, basename(library).startsWith('ld-') ? 'lib64' : 'lib', basename(library)));
	}

	for (const [index, name] of list.modules.entries()) {
		const to = join(staging, 'modules', `${String(index).padStart(2, '0')}-${name}.ko`);
		const plain = files.get(`${name}.ko`);
		await install(plain ?? found(files, `${name}.ko.xz`), plain === undefined ? `${to}.xz` : to);
		if (plain === undefined) await output('xz', ['-d', `${to}.xz`]);
	}

	const kernel = Array.from(files.values()).find(path => basename(path).startsWith('vmlinuz-'));
	if (kernel === undefined) throw new Error(`no kernel in the packages ${list.packages.join(', ')}`);
	await copyFile(kernel, join(folder, 'vmlinuz'));
	await copyFile(join(packages, 'packages'), join(folder, 'packages'));
	await pack(staging, busybox, join(folder, 'initramfs'));
	await rm(staging, {recursive: true});
};

/** Not compressed: the emulated guest would need longer to unpack it than this host to read it. */
const pack = async (root: string, busybox: string, to: string): Promise<void> => {
	const names = (await readdir(root, {recursive: true})).sort();
	const cpio = spawn(busybox, ['cpio', '-o', '-H', 'newc'], {cwd: root, stdio: ['pipe', 'pipe', 'ignore']});
	const ended = once(cpio, 'close') as Promise<[code: number | null]>;
	cpio.stdin.end(names.join('\n'));
	const [[code]] = await Promise.all([ended, pipeline(cpio.stdout, createWriteStream(to))]);
	if (code !== 0) throw new Error(`busybox cpio: exit code ${code ?? 'none'}`);
};

const install = async (from: string, to: string): Promise<void> => {
	await cp(await realpath(from), to);
	await chmod(to, 0o755);
};

/** The first file of each name. Modules, programs and libraries of the few packages here have names of their own. */
const filesByName = async (root: string): Promise<Map<string, string>> => {
	const files = new Map<string, string>();
	for (const entry of await readdir(root, {recursive: true, withFileTypes: true})) {
		const path = join(entry.parentPath, entry.name);
		// Completions and manuals are named like their programs.
		if (entry.isDirectory() || path.startsWith(join(root, 'usr/share'))) continue;
		if (!files.has(entry.name)) files.set(entry.name, path);
	}
	return files;
};

const found = (files: ReadonlyMap<string, string>, name: string): string => {
	const path = files.get(name);
	if (path === undefined) throw new Error(`the guest needs ${name}, and none of its packages has it`);
	return path;
};

/** The shared libraries that a program needs, and those that they need. Named as the loader looks for them. */
const libraries = async (program: string, files: ReadonlyMap<string, string>): Promise<string[]> => {
	const needed = new Set<string>();
	const queue = [program];
	for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
		const dynamic = await tool('readelf', ['-d', path], 'binutils');
		for (const [, name] of dynamic.matchAll(/\(NEEDED\).*\[(.*)\]/g)) {
			const library = found(files, name!);
			if (needed.has(library)) continue;
			needed.add(library);
			queue.push(library);
		}
	}
	const loader = Array.from(files.values()).find(path => basename(path).startsWith('ld-linux'));
	if (loader !== undefined) needed.add(loader);
	return [...needed];
};

const compile = async (source: string, to: string): Promise<void> => {
	const missing = 'to build the test guest: apt-get install gcc libc6-dev';
	await tool('gcc', ['-static', '-O2', '-Wall', '-Wextra', '-Werror', '-s', '-o', to, source], missing);
};

const tool = async (program: string, args: readonly string[], packages: string): Promise<string> => {
	let result;
	try {
		result = await outcome(program, args);
	} catch (error) {
		throw new Error(`${program} is missing; apt-get install ${packages}`, {cause: error});
	}
	if (result.code !== 0) throw new Error(`${program} ${args.join(' ')}: ${result.stderr.trim()}`);
	return result.stdout;
};
