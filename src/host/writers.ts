import fs from 'node:fs/promises';
import path from 'node:path';
import {constants} from 'node:fs';

/** A process that has a file open. */
export interface Opener {
	readonly pid: number;
	/** The program's short name. */
	readonly name: string;
}

/** Who of this host, as far as this user may see, has one of the files open for writing; by the file. */
export function writersOf(
	files: readonly string[],
	except: readonly number[],
	proc?: string,
): Promise<ReadonlyMap<string, Opener>> {
	return find(files, except, 'write', proc);
}

/** The same for all who have them open, also those who only read. */
export function openersOf(
	files: readonly string[],
	except: readonly number[],
	proc?: string,
): Promise<ReadonlyMap<string, Opener>> {
	return find(files, except, 'any', proc);
}

async function find(
	files: readonly string[],
	except: readonly number[],
	access: 'any' | 'write',
	proc = '/proc',
): Promise<ReadonlyMap<string, Opener>> {
	const real = new Map(
		await Promise.all(files.map(async file => [await fs.realpath(file).catch(() => file), file] as const)),
	);
	const found = new Map<string, Opener>();
	const pids = (await fs.readdir(proc)).filter(name => /^\d+$/.test(name) && !except.includes(Number(name)));
	await Promise.all(
		pids.map(async pid => {
			const folder = path.join(proc, pid);
			for (const descriptor of await fs.readdir(path.join(folder, 'fd')).catch(() => [])) {
				const file = real.get(await fs.readlink(path.join(folder, 'fd', descriptor)).catch(() => ''));
				if (file === undefined) continue;
				if (access === 'write' && !(await isWritable(path.join(folder, 'fdinfo', descriptor)))) continue;
				const name = (await fs.readFile(path.join(folder, 'comm'), 'utf8').catch(() => '')).trim();
				found.set(file, {pid: Number(pid), name});
			}
		}),
	);
	return found;
}

/** The flags of open(2), in octal, as proc(5) has them. */
async function isWritable(info: string): Promise<boolean> {
	const text = await fs.readFile(info, 'utf8').catch(() => '');
	const flags = Number.parseInt(/^flags:\s+(?<flags>[0-7]+)/m.exec(text)?.groups?.['flags'] ?? '0', 8);
	return (flags & (constants.O_WRONLY | constants.O_RDWR)) !== 0;
}
