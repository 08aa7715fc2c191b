import {spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs/promises';
import path from 'node:path';
import {performance} from 'node:perf_hooks';
import {fileURLToPath} from 'node:url';

export interface Usage {
	readonly wallSeconds: number;
	readonly cpuSeconds: number;
	readonly peakMib: number;
}

export const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));

/** The program as it is published, compiled, in a folder of its own below `folder`. Returns its launcher. */
export async function installProgram(folder: string): Promise<string> {
	const root = path.join(folder, 'package');
	for (const part of ['bin', 'dist', 'package.json'])
		await fs.cp(here(`../${part}`), path.join(root, part), {recursive: true});
	await fs.symlink(here('../node_modules'), path.join(root, 'node_modules'));
	return path.join(root, 'bin', 'quiesce.js');
}

/** Runs a command to its end, which must be a good one. CPU and memory are those of our own program only. */
export async function timed(
	folder: string,
	program: string,
	args: readonly string[],
	env: NodeJS.ProcessEnv = {},
): Promise<Usage> {
	const usageFile = path.join(folder, 'usage.json');
	const began = performance.now();
	const child = spawn(program, args, {
		stdio: ['ignore', 'ignore', 'pipe'],
		env: {...process.env, ...env, BENCH_USAGE: usageFile},
	});
	let words = '';
	child.stderr.on('data', part => (words += String(part)));
	const [code] = (await once(child, 'exit')) as [number | null];
	const wallSeconds = (performance.now() - began) / 1000;
	if (code !== 0) throw new Error(`${program} ${args.join(' ')} failed: ${words}`);
	const usage = await fs.readFile(usageFile, 'utf8').catch(() => '{"cpuSeconds":0,"peakMib":0}');
	await fs.rm(usageFile, {force: true});
	return {wallSeconds, ...(JSON.parse(usage) as {cpuSeconds: number; peakMib: number})};
}

export function median(numbers: readonly number[]): number {
	return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN;
}
