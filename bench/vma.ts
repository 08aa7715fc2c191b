/**
 * What an archive costs, in pairs within one run: uncompressed beside a bare `blockdev-backup` to a raw file, compressed beside
 * `qemu-img convert -c` with zstd, for zeroes, random data and what a file system ordinarily holds.
 *
 *     npm run bench:vma [-- --pairs N] [-- --mib 4096] [-- --in /dev/shm]
 *
 * All files are in memory, so that no disk is what is measured, unless `--in` names a folder on one. What is written is synced, by
 * all. What runs is the compiled program.
 */
import fs from 'node:fs/promises';
import path from 'node:path';
import {parseArgs} from 'node:util';
import {formatTable} from '../src/cli/table.ts';
import {here, installProgram, median, timed, type Usage} from './measured-program.ts';

const {values: options} = parseArgs({
	options: {
		pairs: {type: 'string', default: '3'},
		mib: {type: 'string', default: '4096'},
		in: {type: 'string', default: '/dev/shm'},
	},
});
const PAIRS = Number(options.pairs);
const MIB = Number(options.mib);
const folder = await fs.mkdtemp(path.join(options.in, 'quiesce-bench-'));
process.env['QUIESCE_RUNTIME_DIR'] = path.join(folder, 'run');
const disk = path.join(folder, 'disk.raw');

const CONTENTS: readonly {readonly name: string; readonly make: string}[] = [
	{name: 'zeroes', make: 'truncate -s "$2M" "$1"'},
	{name: 'random', make: 'head -c "$2M" /dev/urandom >"$1"'},
	{name: 'files', make: 'tar -C /usr -cf - lib share 2>/dev/null | head -c "$2M" >"$1"; truncate -s "$2M" "$1"'},
];

interface Row {
	readonly content: string;
	readonly what: string;
	readonly ours: number;
	readonly bare: number;
	readonly cpuPerGib: number;
	readonly peakMib: number;
}

function launch(program: string, args: readonly string[]): Promise<Usage> {
	return timed(folder, program, args);
}

async function startVm(): Promise<{monitor: string; end: () => Promise<void>}> {
	const [monitor, pidFile] = [path.join(folder, 'qmp.sock'), path.join(folder, 'qemu.pid')];
	await launch('qemu-system-x86_64', [
		...['-M', 'q35,accel=tcg', '-nodefaults', '-display', 'none', '-name', 'bench', '-S', '-daemonize'],
		...['-pidfile', pidFile, '-qmp', `unix:${monitor},server=on,wait=off`],
		...['-blockdev', `raw,node-name=vda,file.driver=file,file.filename=${disk}`],
		...['-device', 'virtio-blk-pci,id=vda,drive=vda'],
	]);
	const pid = await fs.readFile(pidFile, 'utf8');
	return {
		monitor,
		end: async () => {
			await launch('sh', ['-c', 'kill "$1"; while [ -e "/proc/$1" ]; do :; done', 'sh', pid.trim()]);
			await fs.rm(monitor, {force: true});
		},
	};
}

async function measure(content: string, compression: 'none' | 'zstd', program: string, monitor: string): Promise<Row> {
	const archive = path.join(folder, compression === 'none' ? 'disk.vma' : 'disk.vma.zst');
	const [raw, qcow2] = [path.join(folder, 'bare.raw'), path.join(folder, 'bare.qcow2')];
	const runs: {readonly ours: Usage; readonly bare: Usage}[] = [];
	for (let pair = 0; pair <= PAIRS; pair++) {
		const args = ['export', '--qmp', monitor, '--quiesce', 'never', '--output', archive, '-q'];
		const ours = await launch(process.execPath, ['--import', here('usage.mjs'), program, ...args]);
		for (const made of [archive, `${archive}.index.json`]) await fs.rm(made);
		if (compression === 'none') await launch('truncate', ['-s', `${MIB}M`, raw]);
		const target = JSON.stringify({vda: {driver: 'raw', file: {driver: 'file', filename: raw}}});
		const convert = ['convert', '-U', '-c', '-f', 'raw', '-O', 'qcow2', '-o', 'compression_type=zstd', disk, qcow2];
		const bare = await (compression === 'none'
			? launch(process.execPath, [here('bare-backup.ts'), monitor, target])
			: launch('qemu-img', convert));
		const {wallSeconds: syncing} = await launch('sync', [compression === 'none' ? raw : qcow2]);
		for (const made of [raw, qcow2]) await fs.rm(made, {force: true});
		// The first pair warms up.
		if (pair > 0) runs.push({ours, bare: {...bare, wallSeconds: bare.wallSeconds + syncing}});
	}
	const middle = (value: (run: (typeof runs)[number]) => number): number => median(runs.map(value));
	return {
		content,
		what: compression === 'none' ? 'VMA, beside blockdev-backup to raw' : 'VMA.zst, beside qemu-img convert -c',
		ours: middle(({ours}) => ours.wallSeconds),
		bare: middle(({bare}) => bare.wallSeconds),
		cpuPerGib: (middle(({ours}) => ours.cpuSeconds) * 1024) / MIB,
		peakMib: middle(({ours}) => ours.peakMib),
	};
}

try {
	const program = await installProgram(folder);
	const rows: Row[] = [];
	for (const {name, make} of CONTENTS) {
		await launch('sh', ['-c', make, 'sh', disk, String(MIB)]);
		const vm = await startVm();
		try {
			for (const compression of ['none', 'zstd'] as const) {
				rows.push(await measure(name, compression, program, vm.monitor));
			}
		} finally {
			await vm.end();
			await fs.rm(disk);
		}
	}
	const seconds = (value: number): string => `${value.toFixed(2)} s`;
	process.stdout.write(
		formatTable(
			[
				{title: 'DATA', value: row => row.content},
				{title: 'WHAT', value: row => row.what},
				{title: 'OURS', value: row => seconds(row.ours), align: 'right'},
				{title: 'BARE', value: row => seconds(row.bare), align: 'right'},
				{title: 'THROUGHPUT RATIO', value: row => (row.bare / row.ours).toFixed(2), align: 'right'},
				{title: 'OUR CPU PER GiB', value: row => seconds(row.cpuPerGib), align: 'right'},
				{title: 'OUR PEAK', value: row => `${row.peakMib.toFixed(0)} MiB`, align: 'right'},
			],
			rows,
		),
	);
} finally {
	await fs.rm(folder, {recursive: true});
}
