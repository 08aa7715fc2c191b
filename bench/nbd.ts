/**
 * How fast our NBD server takes what QEMU pushes, and gives what others pull, next to the same without it, in one run:
 *
 *     npm run bench:nbd [-- --size 1024] [-- --rounds 5]
 *
 * The size is in MiB. The server runs in a process of its own. The medians of the rounds are shown.
 */
import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs/promises';
import path from 'node:path';
import {performance} from 'node:perf_hooks';
import {createInterface} from 'node:readline';
import {text} from 'node:stream/consumers';
import {parseArgs} from 'node:util';
import {type Column, formatTable} from '../src/cli/table.ts';

const {values: options} = parseArgs({
	options: {size: {type: 'string', default: '1024'}, rounds: {type: 'string', default: '5'}},
});
const MIB = 1024 ** 2;
const SIZE = Number(options.size) * MIB;
const ROUNDS = Number(options.rounds);
const folder = await fs.mkdtemp('/var/tmp/quiesce-bench-nbd-');
const source = path.join(folder, 'source.raw');
const target = path.join(folder, 'target.raw');
const socket = path.join(folder, 'nbd.sock');

async function run(program: string, ...args: string[]): Promise<void> {
	const child = spawn(program, args, {stdio: ['ignore', 'ignore', 'pipe']});
	const [said, [code]] = await Promise.all([text(child.stderr), once(child, 'exit') as Promise<[number | null]>]);
	if (code !== 0) throw new Error(`${program} ${args.join(' ')}: exit code ${code ?? 'none'}: ${said}`);
}

/** Starts a program, and waits for what tells that it is ready. */
async function start(program: string, args: readonly string[], ready: (child: ChildProcess) => Promise<unknown>) {
	const child = spawn(program, args, {stdio: ['ignore', 'pipe', 'ignore']});
	const ended = once(child, 'exit');
	await ready(child);
	const cpu = async (): Promise<number> => {
		const [, , fields = ''] = /^(.*)\) (.*)$/s.exec(await fs.readFile(`/proc/${child.pid}/stat`, 'utf8')) ?? [];
		const [user = 0, system = 0] = fields.split(' ').slice(11, 13).map(Number);
		return (user + system) / 100;
	};
	const peak = async (): Promise<number> =>
		Number(/VmHWM:\s+(\d+)/.exec(await fs.readFile(`/proc/${child.pid}/status`, 'utf8'))?.[1]) / 1024;
	const stop = async (): Promise<void> => {
		child.kill('SIGKILL');
		await ended;
	};
	return {cpu, peak, stop};
}

const firstLine = async (child: ChildProcess): Promise<void> => {
	await once(createInterface(child.stdout!), 'line');
};

/** The watch begins at once, and ends with it. */
async function untilThere(file: string): Promise<void> {
	const changes = fs.watch(path.dirname(file));
	for await (const {filename} of changes) if (filename === path.basename(file)) return;
}

interface Sample {
	readonly seconds: number;
	readonly cpu: number;
	readonly peak: number;
}

/** Of the server, around what is measured. */
async function withServer(kind: string, file: string, use: () => Promise<number>): Promise<Sample> {
	const server = await start(
		process.execPath,
		[
			'--disable-warning=ExperimentalWarning',
			path.join(import.meta.dirname, 'nbd-server.ts'),
			kind,
			socket,
			file,
			String(SIZE),
		],
		firstLine,
	);
	try {
		const seconds = await use();
		return {seconds, cpu: await server.cpu(), peak: await server.peak()};
	} finally {
		await server.stop();
		await fs.rm(socket, {force: true});
	}
}

const alone = async (use: () => Promise<number>): Promise<Sample> => ({seconds: await use(), cpu: 0, peak: 0});

async function timed(use: () => Promise<unknown>): Promise<number> {
	const began = performance.now();
	await use();
	return (performance.now() - began) / 1000;
}

/** QEMU's own job from the source to a node. */
async function push(targetOptions: object): Promise<number> {
	const monitor = path.join(folder, 'qmp.sock');
	const node = JSON.stringify({
		'driver': 'raw',
		'node-name': 'disk',
		'read-only': true,
		'file': {driver: 'file', filename: source},
	});
	const there = untilThere(monitor);
	const qemu = await start(
		'qemu-system-x86_64',
		['-M', 'none', '-nodefaults', '-display', 'none', '-qmp', `unix:${monitor},server=on,wait=off`, '-blockdev', node],
		() => there,
	);
	try {
		return await timed(() =>
			run(
				process.execPath,
				path.join(import.meta.dirname, 'bare-backup.ts'),
				monitor,
				JSON.stringify({disk: targetOptions}),
			),
		);
	} finally {
		await qemu.stop();
		await fs.rm(monitor, {force: true});
	}
}

async function fresh(): Promise<void> {
	await fs.rm(target, {force: true});
	await fs.writeFile(target, '');
	await fs.truncate(target, SIZE);
}

const nbd = {driver: 'nbd', server: {type: 'unix', path: socket}, export: 'disk'};
const raw = {driver: 'raw', file: {driver: 'file', filename: target}};
const uri = `nbd+unix:///disk?socket=${socket}`;

const ways: Record<string, () => Promise<Sample>> = {
	'QEMU pushes to a raw file': () => alone(() => push(raw)),
	'QEMU pushes to us, discarded': () => withServer('discard', target, () => push(nbd)),
	'QEMU pushes to us, raw file': () => withServer('write', target, () => push(nbd)),
	'nbdcopy file to file': () => alone(() => timed(() => run('nbdcopy', '--sparse=0', source, target))),
	'nbdcopy to us, raw file': () =>
		withServer('write', target, () => timed(() => run('nbdcopy', '--sparse=0', source, uri))),
	'nbdcopy from us': () => withServer('read', source, () => timed(() => run('nbdcopy', '--sparse=0', uri, target))),
};

try {
	await run('sh', '-c', `head -c ${SIZE} /dev/urandom > ${source}`);
	const samples = new Map<string, Sample[]>(Object.keys(ways).map(name => [name, []]));
	for (let round = 0; round < ROUNDS; round++) {
		for (const [name, measure] of Object.entries(ways)) {
			await fresh();
			samples.get(name)?.push(await measure());
		}
	}
	const median = (values: readonly number[]): number =>
		[...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
	const of = (name: string, value: keyof Sample): number =>
		median((samples.get(name) ?? []).map(taken => taken[value]));
	const columns: Column<string>[] = [
		{title: 'way', value: name => name},
		{title: 's', value: name => of(name, 'seconds').toFixed(2), align: 'right'},
		{title: 'MiB/s', value: name => (SIZE / MIB / of(name, 'seconds')).toFixed(0), align: 'right'},
		{title: 'our CPU s', value: name => of(name, 'cpu').toFixed(2), align: 'right'},
		{title: 'our MiB', value: name => of(name, 'peak').toFixed(0), align: 'right'},
	];
	console.log(formatTable(columns, Object.keys(ways)));
} finally {
	await fs.rm(folder, {recursive: true, force: true});
}
