/**
 * Loaded before the program by `--import`. Writes the name of each step of the run to the file
 * `QUIESCE_TEST_STEPS`, and stops the program, by SIGSTOP, at the step `QUIESCE_TEST_STOP_AT`: right after the message
 * was sent or came in, or the thing was done. That it is about to stop is said on descriptor 3.
 */
import childProcess from 'node:child_process';
import fs from 'node:fs';
import {syncBuiltinESMExports} from 'node:module';
import path from 'node:path';
import {isMainThread} from 'node:worker_threads';
import {StepNames} from './step-names.ts';

const file = process.env['QUIESCE_TEST_STEPS'] ?? '/dev/null';
const stopAt = process.env['QUIESCE_TEST_STOP_AT'];
const append = fs.appendFileSync;
const names = new StepNames();

function reached(step: string): void {
	append(file, `${step}\n`);
	if (step !== stopAt) return;
	fs.writeSync(3, 'stopped\n');
	process.kill(process.pid, 'SIGSTOP');
}

function watchMessages(): void {
	fs.appendFileSync = (to, data, options) => {
		append(to, data, options);
		const step = typeof to === 'number' ? names.ofMessage(String(data).trimEnd()) : undefined;
		// What is recorded is written to the socket at once, and then the microtasks run.
		if (step !== undefined) {
			queueMicrotask(() => {
				reached(step);
			});
		}
	};
}

const DEEDS = ['mkdir', 'rename', 'rm', 'rmdir', 'writeFile', 'link', 'unlink'] as const;

type Deed = (target: unknown, ...rest: unknown[]) => Promise<unknown>;

/** Where the arguments of setpriv(1) have the program that is to die with us. */
const WRAPPED_AT = 7;

function watchDeeds(): void {
	const promises = fs.promises as unknown as Record<string, Deed>;
	for (const name of DEEDS) {
		const original = promises[name]!;
		promises[name] = async (target, ...rest) => {
			const result = await original(target, ...rest);
			reached(names.ofDeed(name, path.basename(String(target))));
			return result;
		};
	}
	const spawn = childProcess.spawn as (...args: unknown[]) => unknown;
	childProcess.spawn = ((program: string, args: readonly string[], ...rest: unknown[]) => {
		const child = spawn(program, args, ...rest);
		const [meant = '', ...its] = program === 'setpriv' ? args.slice(WRAPPED_AT) : [program, ...args];
		const what = its.find(arg => !arg.startsWith('-')) ?? '';
		queueMicrotask(() => {
			reached(names.ofDeed('start', `${path.basename(meant)} ${path.basename(what)}`.trim()));
		});
		return child;
	}) as typeof childProcess.spawn;
	syncBuiltinESMExports();
}

if (isMainThread) {
	watchMessages();
	watchDeeds();
}
