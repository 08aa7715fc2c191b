import {spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import type {Readable} from 'node:stream';
import {fileURLToPath} from 'node:url';
import {onTestFinished} from 'vitest';
import {eventually, isRunning} from '../jobs/bare-vm.ts';
import {guardOf} from '../jobs/backups.ts';
import {temporaryFolder} from '../repository/fixture.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/quiesce.js', import.meta.url));
const PRELOAD = fileURLToPath(new URL('../faults/harness/at-step.ts', import.meta.url));

/** The program, which stops itself at a step. */
export interface ToolAtStep {
	readonly pid: number;
	/** True once it stands still there; false if it ended without coming there. */
	readonly stopped: Promise<boolean>;
	/** Resolves once the program has ended. */
	readonly ended: Promise<{code: number | null; signal: NodeJS.Signals | null}>;
	/** SIGKILL; resolves with its guard's process once it has ended itself. */
	killAlone(): Promise<number>;
	/** SIGKILL for its guard too, if it has one. */
	killBoth(): Promise<void>;
	/** What it and its guard said on stderr until now. */
	stderr(): string;
	stdout(): string;
	/** The names of the steps until now. */
	steps(): string[];
}

/** Runs the program with `args`, and stops it at `step`, of which `test/faults/harness/at-step.ts` says more. */
export function startToolAt(step: string, args: readonly string[]): ToolAtStep {
	const folder = temporaryFolder();
	const steps = path.join(folder, 'steps');
	const preload = ['--disable-warning=ExperimentalWarning', '--import', PRELOAD];
	const transcript = ['--transcript', path.join(folder, 'transcript')];
	// What follows -- is another program's.
	const end = args.includes('--') ? args.indexOf('--') : args.length;
	const all = [...args.slice(0, end), ...transcript, ...args.slice(end)];
	const child = spawn(process.execPath, [...preload, PROGRAM, ...all], {
		env: {...process.env, QUIESCE_TEST_STEPS: steps, QUIESCE_TEST_STOP_AT: step},
		stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
	});
	const pid = child.pid!;
	const said = {stdout: '', stderr: ''};
	for (const name of ['stdout', 'stderr'] as const) {
		child[name]!.setEncoding('utf8').on('data', part => (said[name] += String(part)));
	}
	const ended = once(child, 'exit').then(([code, signal]: unknown[]) => ({
		code: code as number | null,
		signal: signal as NodeJS.Signals | null,
	}));
	const announced = once(child.stdio[3] as Readable, 'data').then(() => true);
	const stopped = Promise.race([announced, ended.then(() => false)]).then(async isStopping => {
		if (isStopping) await eventually(() => isStopped(pid));
		return isStopping;
	});
	const killAll = async (pids: readonly number[]): Promise<void> => {
		for (const one of pids) if (isRunning(one)) process.kill(one, 'SIGKILL');
		await ended;
		await eventually(() => !pids.some(one => isRunning(one)));
	};
	const guards = (): number[] => (isRunning(pid) ? [guardOf(pid) ?? []].flat() : []);
	onTestFinished(() => killAll([pid, ...guards()]));
	return {
		pid,
		stopped,
		ended,
		killAlone: async () => {
			const [guard] = guards();
			await killAll([pid]);
			return guard!;
		},
		killBoth: () => killAll([pid, ...guards()]),
		stderr: () => said.stderr,
		stdout: () => said.stdout,
		steps: () => fs.readFileSync(steps, 'utf8').trimEnd().split('\n'),
	};
}

function isStopped(pid: number): boolean {
	const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
	return stat.slice(stat.lastIndexOf(')')).startsWith(') T');
}
