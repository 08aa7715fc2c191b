/**
 * What a backup costs beside the bare commands, in pairs within one run, so that the machine's noise falls on both:
 *
 *     npm run bench [-- --folder FOLDER] [-- --pairs N]
 *
 * The folder should be on a fast file system; the default is memory, so that the disk is not what is measured. What runs
 * is the compiled program, as it is published.
 */
import crypto from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import {parseArgs} from 'node:util';
import {formatTable} from '../src/cli/table.ts';
import {StorageDaemon} from '../src/images/storage-daemon.ts';
import {startGuest} from '../test/guest/guest.ts';
import {here, installProgram, median, timed, type Usage} from './measured-program.ts';

const {values: options} = parseArgs({
	options: {
		folder: {type: 'string', default: '/dev/shm'},
		pairs: {type: 'string', default: '5'},
	},
});
const PAIRS = Number(options.pairs);
const GIB = 1024 ** 3;
const folder = await fs.mkdtemp(path.join(options.folder, 'quiesce-bench-'));
process.env['QUIESCE_RUNTIME_DIR'] = path.join(folder, 'run');

let program = '';

function quiesce(...args: readonly string[]): Promise<Usage> {
	return launch(process.execPath, ['--import', here('usage.mjs'), program, ...args]);
}

function launch(command: string, args: readonly string[]): Promise<Usage> {
	return timed(folder, command, args);
}

/** A VM whose disks hold what does not compress, half of `bytes` each; it does nothing but be there. */
async function idleVm(bytes: number, content: 'random' | 'none'): Promise<{monitor: string; end: () => Promise<void>}> {
	const disks: string[] = [];
	for (const name of ['vda', 'vdb']) {
		const file = path.join(folder, `${name}.raw`);
		await (content === 'random'
			? launch('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', `count=${bytes / 2 / 1024 ** 2}`])
			: launch('truncate', ['-s', String(bytes / 2), file]));
		disks.push('-blockdev', `raw,node-name=${name},file.driver=file,file.filename=${file}`);
		disks.push('-device', `virtio-blk-pci,id=${name},drive=${name}`);
	}
	const monitor = path.join(folder, 'qmp.sock');
	const pidFile = path.join(folder, 'qemu.pid');
	const common = ['-M', 'q35,accel=tcg', '-nodefaults', '-display', 'none', '-name', 'bench', '-S', '-daemonize'];
	await launch('qemu-system-x86_64', [
		...common,
		'-pidfile',
		pidFile,
		'-qmp',
		`unix:${monitor},server=on,wait=off`,
		...disks,
	]);
	const pid = Number(await fs.readFile(pidFile, 'utf8'));
	return {
		monitor,
		end: async () => {
			process.kill(pid, 'SIGKILL');
			while (
				await fs.access(`/proc/${pid}`).then(
					() => true,
					() => false,
				)
			)
				await new Promise(resolve => setImmediate(resolve));
			await fs.rm(monitor, {force: true});
		},
	};
}

async function newImages(): Promise<string[]> {
	const files = ['vda', 'vdb'].map(name => path.join(folder, `bare-${name}.qcow2`));
	for (const file of files) await launch('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(GIB / 2)]);
	return files;
}

async function bareInline(monitor: string): Promise<Usage> {
	const [vda, vdb] = await newImages();
	const node = (filename: string | undefined): object => ({driver: 'qcow2', file: {driver: 'file', filename}});
	const targets = JSON.stringify({vda: node(vda), vdb: node(vdb)});
	return launch(process.execPath, [here('bare-backup.ts'), monitor, targets]);
}

async function bareDaemon(monitor: string): Promise<Usage> {
	const files = await newImages();
	const socket = path.join(folder, 'bare.sock');
	const daemon = await StorageDaemon.start(socket);
	const images = files.map((file, index) => ({
		name: `disk${index}`,
		path: file,
		sizeBytes: GIB / 2,
		compress: false,
	}));
	for (const image of images) await daemon.serve(image);
	const node = (name: string): object => ({driver: 'nbd', server: {type: 'unix', path: socket}, export: name});
	const targets = JSON.stringify({vda: node('disk0'), vdb: node('disk1')});
	const usage = await launch(process.execPath, [here('bare-backup.ts'), monitor, targets]);
	await daemon.kill();
	await fs.rm(socket, {force: true});
	return usage;
}

interface Row {
	readonly what: string;
	readonly ours: string;
	readonly bare: string;
	readonly ratio: string;
	readonly aim: string;
}

async function pairs(sink: 'inline' | 'daemon', monitor: string): Promise<Row[]> {
	const bare = sink === 'inline' ? bareInline : bareDaemon;
	const runs: {ours: Usage; bare: Usage}[] = [];
	for (let pair = 0; pair <= PAIRS; pair++) {
		const repository = path.join(folder, 'repository');
		await fs.mkdir(repository);
		const ours = await quiesce(
			...[
				'backup',
				'--qmp',
				monitor,
				'-r',
				repository,
				'--quiesce',
				'never',
				'--compress',
				'none',
				'--sink',
				sink,
				'-q',
			],
		);
		await fs.rm(repository, {recursive: true});
		const other = await bare(monitor);
		// The first pair warms up.
		if (pair > 0) runs.push({ours, bare: other});
	}
	const oursWall = median(runs.map(run => run.ours.wallSeconds));
	const bareWall = median(runs.map(run => run.bare.wallSeconds));
	const over = median(runs.map(run => run.ours.wallSeconds - 1.1 * run.bare.wallSeconds));
	const ratio = median(runs.map(run => run.ours.wallSeconds / run.bare.wallSeconds));
	const name = `full backup of 1 GiB, uncompressed, ${sink}`;
	return [
		{
			what: `${name}: wall`,
			ours: `${oursWall.toFixed(2)} s`,
			bare: `${bareWall.toFixed(2)} s`,
			ratio: ratio.toFixed(2),
			aim: `ours - 1.10 bare = ${over.toFixed(2)} s, at most 0.50 s`,
		},
		{
			what: `${name}: our CPU`,
			ours: `${median(runs.map(run => run.ours.cpuSeconds)).toFixed(2)} s`,
			bare: '',
			ratio: '',
			aim: 'at most 0.60 s',
		},
		{
			what: `${name}: our peak memory`,
			ours: `${median(runs.map(run => run.ours.peakMib)).toFixed(0)} MiB`,
			bare: '',
			ratio: '',
			aim: 'at most 150 MB',
		},
	];
}

async function bigDisk(): Promise<Row[]> {
	const vm = await idleVm(100 * GIB, 'none');
	try {
		const repository = path.join(folder, 'repository');
		await fs.mkdir(repository);
		const usage = await quiesce('backup', '--qmp', vm.monitor, '-r', repository, '--quiesce', 'never', '-q');
		await fs.rm(repository, {recursive: true});
		const what = 'full backup of 100 GiB, sparse: ';
		return [
			{
				what: `${what}our peak memory`,
				ours: `${usage.peakMib.toFixed(0)} MiB`,
				bare: '',
				ratio: '',
				aim: 'at most 150 MB',
			},
			{what: `${what}wall`, ours: `${usage.wallSeconds.toFixed(2)} s`, bare: '', ratio: '', aim: ''},
		];
	} finally {
		await vm.end();
	}
}

/** Small backups of the real guest with its writer at work, for the window in which it is frozen. */
async function freezeWindow(): Promise<Row[]> {
	const guest = await startGuest({stamps: 'writing'});
	const held: number[] = [];
	try {
		const repository = path.join(folder, 'repository');
		await fs.mkdir(repository);
		for (let run = 0; run < 3 * PAIRS; run++) {
			await quiesce(
				...[
					'backup',
					'--qmp',
					guest.qmpPath,
					'--agent',
					guest.agentPath,
					'-r',
					repository,
					'--quiesce',
					'require',
					'-q',
				],
			);
		}
		for (const vm of await fs.readdir(path.join(repository, 'vms'))) {
			for (const point of await fs.readdir(path.join(repository, 'vms', vm))) {
				const manifest = JSON.parse(
					await fs.readFile(path.join(repository, 'vms', vm, point, 'point.json'), 'utf8'),
				) as {freeze: {heldSeconds: number}};
				held.push(manifest.freeze.heldSeconds * 1000);
			}
		}
		await fs.rm(repository, {recursive: true});
	} finally {
		await guest.kill();
	}
	const worst = Math.max(...held).toFixed(1);
	return [
		{
			what: `our share of the freeze, 2 disks, ${held.length} backups`,
			ours: `${median(held).toFixed(1)} ms`,
			bare: '',
			ratio: '',
			aim: `at most 10 ms (worst ${worst} ms)`,
		},
	];
}

/** What part of our CPU goes into the checksums, whoever computes them. */
function hashing(): Row {
	const block = crypto.randomBytes(1024 ** 2);
	const hash = crypto.createHash('sha256');
	const before = process.cpuUsage();
	for (let mib = 0; mib < 1024; mib++) hash.update(block);
	hash.digest();
	const {user, system} = process.cpuUsage(before);
	return {
		what: 'SHA-256 of 1 GiB alone: CPU',
		ours: '',
		bare: `${((user + system) / 1e6).toFixed(2)} s`,
		ratio: '',
		aim: '',
	};
}

async function startUp(): Promise<Row> {
	const runs: number[] = [];
	const bare: number[] = [];
	for (let run = 0; run < 4 * PAIRS; run++) {
		runs.push((await launch(process.execPath, [program, '--version'])).wallSeconds);
		bare.push((await launch(process.execPath, ['-e', ''])).wallSeconds);
	}
	const [ours, node] = [median(runs), median(bare)];
	return {
		what: 'quiesce --version, beside an empty Node',
		ours: `${(ours * 1000).toFixed(0)} ms`,
		bare: `${(node * 1000).toFixed(0)} ms`,
		ratio: (ours / node).toFixed(2),
		aim: 'at most 150 ms',
	};
}

const rows: Row[] = [];
try {
	program = await installProgram(folder);
	rows.push(await startUp(), hashing());
	const vm = await idleVm(GIB, 'random');
	try {
		rows.push(...(await pairs('inline', vm.monitor)), ...(await pairs('daemon', vm.monitor)));
	} finally {
		await vm.end();
	}
	rows.push(...(await bigDisk()), ...(await freezeWindow()));
	process.stdout.write(
		formatTable(
			[
				{title: 'WHAT', value: row => row.what},
				{title: 'OURS', value: row => row.ours, align: 'right'},
				{title: 'BARE', value: row => row.bare, align: 'right'},
				{title: 'RATIO', value: row => row.ratio, align: 'right'},
				{title: 'AIM', value: row => row.aim},
			],
			rows,
		),
	);
} finally {
	await fs.rm(folder, {recursive: true, force: true});
}
