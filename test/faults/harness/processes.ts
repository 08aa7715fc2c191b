import {readdir, readFile} from 'node:fs/promises';
import {setTimeout as delay} from 'node:timers/promises';
import type {Stage} from './stage.ts';
import type {Tool} from './tool.ts';

export interface OurProcess {
	readonly pid: number;
	readonly commandLine: string;
}

/** All that runs of a stage have started and is alive, the runs themselves included: they inherit its runtime folder. */
export async function ourProcesses(runtimeDir: string): Promise<OurProcess[]> {
	const found: OurProcess[] = [];
	for (const name of await readdir('/proc')) {
		if (!/^\d+$/.test(name)) continue;
		// A process that is just ending cannot be read, or reads as empty.
		const read = (file: string): Promise<string> => readFile(`/proc/${name}/${file}`, 'utf8').catch(() => '');
		if (!(await read('environ')).split('\0').includes(`QUIESCE_RUNTIME_DIR=${runtimeDir}`)) continue;
		const commandLine = (await read('cmdline')).replaceAll('\0', ' ').trim();
		if (commandLine !== '') found.push({pid: Number(name), commandLine});
	}
	return found;
}

/** Ends those at one time; returns once they are gone. */
export async function killAll(processes: readonly OurProcess[]): Promise<void> {
	for (const {pid} of processes) kill(pid);
	for (const {pid} of processes) while (isThere(pid)) await delay(5);
}

/** Ends a run and its guard at one time; what else it has started goes on. */
export async function killWithGuards(stage: Pick<Stage, 'runtimeDir'>, tool: Tool): Promise<void> {
	const ours = await ourProcesses(stage.runtimeDir);
	await killAll(ours.filter(({pid, commandLine}) => pid === tool.pid || commandLine.includes('guard-process')));
}

function kill(pid: number): void {
	try {
		process.kill(pid, 'SIGKILL');
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
	}
}

function isThere(pid: number): boolean {
	try {
		process.kill(pid, 0);
		return true;
	} catch {
		return false;
	}
}
