import fs from 'node:fs/promises';
import path from 'node:path';

/** When a process started, in ticks after the boot. `folder` is the process's under /proc. */
export async function readStartTicks(folder: string): Promise<number> {
	return (await readStat(folder)).startTicks;
}

/** Fields 3 and 22 of proc(5)'s stat, counted behind the program's name, which may hold blanks and brackets. */
export async function readStat(folder: string): Promise<{readonly state: string; readonly startTicks: number}> {
	const stat = await fs.readFile(path.join(folder, 'stat'), 'utf8');
	const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
	return {state: fields[0] ?? '', startTicks: Number(fields[19])};
}

/** USER_HZ, in which Linux counts for programs (proc(5)). */
const TICKS_PER_SECOND = 100;

/** To about a second: the clock may have been set since. */
export async function processStartedAt(startTicks: number): Promise<Date> {
	const uptime = Number((await fs.readFile('/proc/uptime', 'utf8')).split(' ')[0]);
	return new Date(Date.now() - (uptime - startTicks / TICKS_PER_SECOND) * 1000);
}

/** Another one after each boot of this host. */
export async function bootId(): Promise<string> {
	return (await fs.readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}
