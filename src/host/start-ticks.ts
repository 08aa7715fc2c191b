import fs from 'node:fs/promises';
import path from 'node:path';

/** Field 22 of proc(5)'s stat, counted behind the program's name, which may hold blanks and brackets. `folder` is the process's under /proc. */
export async function readStartTicks(folder: string): Promise<number> {
	const stat = await fs.readFile(path.join(folder, 'stat'), 'utf8');
	return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
}
