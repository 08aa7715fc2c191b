/**
 * A child process for the tests: prunes, and kills itself before the nth step: a call that
 * changes the file system, or the start of a program. Prints the steps as JSON if it lives to the end.
 *
 *     node killed-prune.ts OPTIONS N
 */
import childProcess from 'node:child_process';
import fs, {type FileHandle} from 'node:fs/promises';
import {syncBuiltinESMExports} from 'node:module';
import path from 'node:path';
import {lastValueFrom} from 'rxjs';
import type {PruneOptions} from '../../src/operations/prune.ts';

const [json = '', killAt = ''] = process.argv.slice(2);
const options = JSON.parse(json) as PruneOptions;
const steps: string[] = [];
const names = new WeakMap<object, string>();

function step(name: string): void {
	if (steps.length === Number(killAt)) process.kill(process.pid, 'SIGKILL');
	steps.push(name);
}

type AnyFunction = (this: unknown, ...args: unknown[]) => unknown;

function wrap(target: object, name: string, describe: (self: unknown, args: readonly unknown[]) => string): void {
	const original = Reflect.get(target, name) as AnyFunction;
	Reflect.set(target, name, function (this: unknown, ...args: unknown[]) {
		step(`${name} ${describe(this, args)}`);
		return original.apply(this, args);
	} satisfies AnyFunction);
}

const relative = (file: unknown): string => path.relative(options.repository, String(file));
for (const name of ['mkdir', 'rename', 'rm', 'rmdir', 'unlink']) wrap(fs, name, (_, args) => relative(args[0]));
const open = fs.open;
Reflect.set(fs, 'open', async (...args: Parameters<typeof open>) => {
	if (args[1] === 'wx') step(`create ${relative(args[0])}`);
	const handle = await open(...args);
	names.set(handle, relative(args[0]));
	return handle;
});
const sample = await open('/dev/null', 'r');
const prototype = Object.getPrototypeOf(sample) as FileHandle;
await sample.close();
for (const name of ['writeFile', 'sync']) wrap(prototype, name, self => names.get(self as object) ?? '?');
const spawn = childProcess.spawn as (...args: unknown[]) => unknown;
childProcess.spawn = ((program: string, args: readonly string[], ...rest: unknown[]) => {
	const child = spawn(program, args, ...rest);
	// It is on its way: what it does meanwhile is another time another.
	step(
		`start ${program} ${args
			.filter(arg => !arg.startsWith('-'))
			.slice(0, 3)
			.join(' ')}`,
	);
	return child;
}) as typeof childProcess.spawn;
syncBuiltinESMExports();

const {prune} = await import('../../src/operations/prune.ts');
await lastValueFrom(prune(options));
console.log(JSON.stringify(steps));
