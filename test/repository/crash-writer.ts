/**
 * A child process for the tests: makes a repository and a point, and kills itself before the nth call that changes the
 * file system. Prints the calls as JSON if it lives to the end.
 *
 *     node crash-writer.ts REPOSITORY IMAGE N
 */
import {copyFileSync} from 'node:fs';
import fs, {type FileHandle} from 'node:fs/promises';
import path from 'node:path';
import {createPartialPoint} from '../../src/repository/partial-point.ts';
import {openOrCreateRepository} from '../../src/repository/repository.ts';
import type {Machine} from '../../src/repository/machine.ts';
import type {PointDraft} from '../../src/repository/partial-point.ts';

const [folder = '', image = '', killAt = ''] = process.argv.slice(2);
const {draft, machine} = JSON.parse(process.env['CRASH_WRITER'] ?? '') as {draft: PointDraft; machine: Machine};
const calls: string[] = [];
const names = new WeakMap<object, string>();

function step(call: string): void {
	if (calls.length === Number(killAt)) process.kill(process.pid, 'SIGKILL');
	calls.push(call);
}

type AnyFunction = (this: unknown, ...args: unknown[]) => unknown;
function wrap(target: object, name: string, describe: (self: unknown, args: readonly unknown[]) => string): void {
	const original = Reflect.get(target, name) as AnyFunction;
	Reflect.set(target, name, function (this: unknown, ...args: unknown[]) {
		step(`${name} ${describe(this, args)}`);
		return original.apply(this, args);
	} satisfies AnyFunction);
}

const relative = (file: unknown): string => path.relative(folder, String(file));
for (const name of ['mkdir', 'rename', 'rm', 'rmdir', 'link', 'unlink']) {
	wrap(fs, name, (_, args) => relative(args[0]));
}
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

const repository = await openOrCreateRepository(folder);
const partial = await createPartialPoint(repository, 'web', new Date('2026-11-21T08:00:00Z'), 'r1');
for (const {file} of draft.disks) copyFileSync(image, partial.path(file));
await partial.finish(draft, machine);
console.log(JSON.stringify(calls));
