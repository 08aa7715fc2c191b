/**
 * What an incremental point costs beside the bare commands, in pairs within one run, and that it costs what has changed
 * and not what the disk is large:
 *
 *     npm run bench:increment [-- --folder FOLDER] [-- --pairs N] [-- --sizes 1,10,100,1024]
 *
 * What runs is the compiled program, as it is published. The disks are sparse files; sizes are in GiB.
 */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs/promises';
import path from 'node:path';
import {parseArgs} from 'node:util';
import {formatTable} from '../src/cli/table.ts';
import {QmpConnection} from '../src/qmp/connection.ts';
import {here, installProgram, median, timed} from './measured-program.ts';

const {values: options} = parseArgs({
	options: {
		folder: {type: 'string', default: '/dev/shm'},
		pairs: {type: 'string', default: '5'},
		sizes: {type: 'string', default: '1,10,100,1024'},
	},
});
const PAIRS = Number(options.pairs);
const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const folder = await fs.mkdtemp(path.join(options.folder, 'quiesce-bench-'));
process.env['QUIESCE_RUNTIME_DIR'] = path.join(folder, 'run');

interface Way {
	readonly method: 'push' | 'fleece';
	readonly sink: 'inline' | 'daemon';
}

interface Measured {
	readonly ours: number;
	readonly bare: number;
	readonly storedMib: number;
}

/** A VM that does nothing but be there, with one empty disk, to which the bench writes. */
class IdleVm implements AsyncDisposable {
	readonly monitor = path.join(folder, 'qmp.sock');
	readonly qmp: QmpConnection;
	readonly #child: ReturnType<typeof spawn>;
	#pattern = 0;

	private constructor(child: ReturnType<typeof spawn>, qmp: QmpConnection) {
		this.#child = child;
		this.qmp = qmp;
	}

	static async start(bytes: number): Promise<IdleVm> {
		const [disk, second] = [path.join(folder, 'vda.raw'), path.join(folder, 'second.sock')];
		await fs.rm(disk, {force: true});
		await (await fs.open(disk, 'w')).close();
		await fs.truncate(disk, bytes);
		const child = spawn(
			'qemu-system-x86_64',
			[
				...['-M', 'q35,accel=tcg', '-nodefaults', '-display', 'none', '-name', 'bench', '-S'],
				...[
					'-qmp',
					`unix:${path.join(folder, 'qmp.sock')},server=on,wait=off`,
					'-qmp',
					`unix:${second},server=on,wait=off`,
				],
				...['-blockdev', `raw,node-name=vda,file.driver=file,file.filename=${disk}`],
				...['-device', 'virtio-blk-pci,id=vda,drive=vda'],
			],
			{stdio: 'ignore'},
		);
		for (;;) {
			const qmp = await QmpConnection.open({unix: second}).catch(() => undefined);
			if (qmp) return new IdleVm(child, qmp);
			await new Promise(resolve => setImmediate(resolve));
		}
	}

	/** Writes megabytes here and there, each time other ones. */
	async write(bytes: number, diskBytes: number): Promise<void> {
		const count = bytes / MIB;
		const step = Math.floor(diskBytes / MIB / count) * MIB;
		this.#pattern = (this.#pattern % 255) + 1;
		for (let nth = 0; nth < count; nth++) {
			const line = `qemu-io -d /machine/peripheral/vda/virtio-backend "write -P ${this.#pattern} ${nth * step} 1M"`;
			await this.qmp.execute('human-monitor-command', {'command-line': line});
		}
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.qmp.close();
		this.#child.kill('SIGKILL');
		await once(this.#child, 'exit');
	}
}

async function measure(program: string, diskBytes: number, changedBytes: number, way: Way): Promise<Measured> {
	const repository = path.join(folder, 'repository');
	await fs.mkdir(repository);
	await using vm = await IdleVm.start(diskBytes);
	const backup = async (...args: readonly string[]): Promise<number> => {
		const all = [
			program,
			'backup',
			'--qmp',
			vm.monitor,
			'-r',
			repository,
			'--quiesce',
			'never',
			'-q',
			'--compress',
			'none',
		];
		return (await timed(folder, process.execPath, [...all, ...args])).wallSeconds;
	};
	// The full of a disk without data; the way that a later run is measured by need not be its.
	await backup('--method', 'push', '--sink', 'inline');
	const runs: Measured[] = [];
	for (let pair = 0; pair <= PAIRS; pair++) {
		await vm.qmp.execute('block-dirty-bitmap-add', {node: 'vda', name: 'bare', granularity: 65_536});
		await vm.write(changedBytes, diskBytes);
		const bare = await bareIncrement(vm.monitor, diskBytes);
		await vm.qmp.execute('block-dirty-bitmap-remove', {node: 'vda', name: 'bare'});
		const ours = await backup('--method', way.method, '--sink', way.sink);
		// The first pair warms up.
		if (pair > 0) runs.push({ours, bare, storedMib: (await newestBytes(repository)) / MIB});
	}
	await fs.rm(repository, {recursive: true});
	return {
		ours: median(runs.map(({ours}) => ours)),
		bare: median(runs.map(({bare}) => bare)),
		storedMib: median(runs.map(({storedMib}) => storedMib)),
	};
}

async function bareIncrement(monitor: string, diskBytes: number): Promise<number> {
	const file = path.join(folder, 'bare.qcow2');
	await fs.rm(file, {force: true});
	await timed(folder, 'qemu-img', ['create', '-q', '-f', 'qcow2', file, String(diskBytes)]);
	const targets = JSON.stringify({vda: {driver: 'qcow2', file: {driver: 'file', filename: file}}});
	return (await timed(folder, process.execPath, [here('bare-backup.ts'), monitor, targets, 'bare'])).wallSeconds;
}

/** What all files of the newest point take. */
async function newestBytes(repository: string): Promise<number> {
	const points = path.join(repository, 'vms', 'bench');
	const newest = path.join(points, (await fs.readdir(points)).sort().at(-1) ?? '');
	const sizes = await Promise.all(
		(await fs.readdir(newest)).map(async file => (await fs.stat(path.join(newest, file))).blocks * 512),
	);
	return sizes.reduce((one, other) => one + other, 0);
}

interface Row {
	readonly disk: string;
	readonly changed: string;
	readonly way: string;
	readonly measured: Measured;
}

try {
	const program = await installProgram(folder);
	const rows: Row[] = [];
	const add = async (gib: number, mib: number, way: Way): Promise<void> => {
		const measured = await measure(program, gib * GIB, mib * MIB, way);
		rows.push({
			disk: gib < 1024 ? `${gib} GiB` : `${gib / 1024} TiB`,
			changed: `${mib} MiB`,
			way: `${way.method}, ${way.sink}`,
			measured,
		});
	};
	await add(4, 80, {method: 'push', sink: 'inline'});
	await add(4, 80, {method: 'fleece', sink: 'daemon'});
	for (const size of options.sizes.split(',')) await add(Number(size), 80, {method: 'fleece', sink: 'daemon'});
	for (const mib of [8, 800]) await add(10, mib, {method: 'fleece', sink: 'daemon'});
	const seconds = (value: number): string => `${value.toFixed(2)} s`;
	process.stdout.write(
		formatTable(
			[
				{title: 'DISK', value: row => row.disk, align: 'right'},
				{title: 'CHANGED', value: row => row.changed, align: 'right'},
				{title: 'HOW', value: row => row.way},
				{title: 'OURS', value: ({measured}) => seconds(measured.ours), align: 'right'},
				{title: 'BARE', value: ({measured}) => seconds(measured.bare), align: 'right'},
				{title: 'MORE', value: ({measured}) => seconds(measured.ours - measured.bare), align: 'right'},
				{title: 'STORED', value: ({measured}) => `${measured.storedMib.toFixed(0)} MiB`, align: 'right'},
			],
			rows,
		),
	);
} finally {
	await fs.rm(folder, {recursive: true, force: true});
}
