import fs from 'node:fs/promises';
import path from 'node:path';
import {constants} from 'node:fs';

/** A process that has a file open for writing. */
export interface Writer {
	readonly pid: number;
	/** The program's short name. */
	readonly name: string;
}

/** Who of this host, as far as this user may see, has one of the files open for writing; by the file. */
export async function writersOf(
	files: readonly string[],
	except: readonly number[],
	proc = '/proc',
): Promise<ReadonlyMap<string, Writer>> {
	const real = new Map(
		await Promise.all(files.map(async file => [await fs.realpath(file).catch(() => file), file] as const)),
	);
	const found = new Map<string, Writer>();
	const pids = (await fs.readdir(proc)).filter(name => /^\d+$/.test(name) && !except.includes(Number(name)));
	await Promise.all(
		pids.map(async pid => {
			const folder = path.join(proc, pid);
			for (const descriptor of await fs.readdir(path.join(folder, 'fd')).catch(() => [])) {
				const file = real.get(await fs.readlink(path.join(folder, 'fd', descriptor)).catch(() => ''));
				if (file === undefined || !(await isWritable(path.join(folder, 'fdinfo', descriptor)))) continue;
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
