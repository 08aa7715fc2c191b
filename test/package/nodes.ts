import {access, mkdir, rename, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {oneAtATime} from '../guest/one-at-a-time.ts';
import {output} from '../guest/command.ts';

/** The oldest that the package is for, the one of the repository's own scripts, and the newest there is. */
export const NODES = ['22.18.0', process.versions.node, '26.12.1'] as const;

const CACHE = join(import.meta.dirname, '../../.cache');

/** The program of a version, which is fetched once. */
export async function node(version: string): Promise<string> {
	if (version === process.versions.node) return process.execPath;
	const folder = join(CACHE, `node-${version}`);
	const program = join(folder, 'bin/node');
	await oneAtATime(`node ${folder}`, async () => {
		if (await isThere(program)) return;
		const fresh = `${folder}.new`;
		await rm(fresh, {recursive: true, force: true});
		await mkdir(fresh, {recursive: true});
		const name = `node-linux-${process.arch}@${version}`;
		const tarball = (await output('npm', ['pack', '--silent', '--pack-destination', fresh, name])).trim();
		await output('tar', ['-xzf', join(fresh, tarball), '-C', fresh, '--strip-components=1']);
		await rename(fresh, folder);
	});
	return program;
}

function isThere(file: string): Promise<boolean> {
	return access(file).then(
		() => true,
		() => false,
	);
}
