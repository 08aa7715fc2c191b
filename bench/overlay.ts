/**
 * How long a guest is on overlays while its images are copied by sharing their data, whatever the disk's size, and how long the
 * run takes in all, with and without hashing:
 *
 *     npm run bench:overlay [-- --sizes 1,10,100] [-- --data 512]
 *
 * Needs root: it makes an XFS in a file. Sizes are in GiB, what is stored of each disk in MiB. What runs is the compiled program.
 */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {createInterface} from 'node:readline';
import fs from 'node:fs/promises';
import path from 'node:path';
import {performance} from 'node:perf_hooks';
import {parseArgs} from 'node:util';
import {formatTable} from '../src/cli/table.ts';
import {QmpConnection} from '../src/qmp/connection.ts';
import {installProgram} from './measured-program.ts';

const {values: options} = parseArgs({
	options: {sizes: {type: 'string', default: '1,10,100'}, data: {type: 'string', default: '512'}},
});
const MIB = 1024 ** 2;
const GIB = 1024 ** 3;
const DATA_MIB = Number(options.data);
const folder = await fs.mkdtemp('/var/tmp/quiesce-bench-');
process.env['QUIESCE_RUNTIME_DIR'] = path.join(folder, 'run');

interface Line {
	readonly gib: number;
	readonly format: string;
	readonly onOverlays: number;
	readonly hashed: number;
	readonly unhashed: number;
}

/** With room for sparse files. */
async function mountXfs(): Promise<string> {
	const [image, mount] = [path.join(folder, 'xfs.img'), path.join(folder, 'mount')];
	await (await fs.open(image, 'w')).close();
	await fs.truncate(image, 64 * GIB);
	await fs.mkdir(mount);
	await run('mkfs.xfs', ['-q', '-m', 'reflink=1', image]);
	await run('mount', ['-o', 'loop', image, mount]);
	return mount;
}

async function run(program: string, args: readonly string[]): Promise<void> {
	const child = spawn(program, args, {stdio: ['ignore', 'ignore', 'inherit']});
	const [code] = (await once(child, 'exit')) as [number | null];
	if (code !== 0) throw new Error(`${program} ${args.join(' ')}: exit code ${code ?? 'none'}`);
}

/** Of that size, with data here and there. */
async function makeImage(image: string, format: string, gib: number): Promise<void> {
	await run('qemu-img', ['create', '-q', '-f', format, image, `${gib}G`]);
	const step = Math.floor((gib * GIB) / DATA_MIB / MIB) * MIB;
	const writes = Array.from({length: DATA_MIB}, (_, nth) => ['-c', `write -P ${1 + (nth % 255)} ${nth * step} 1M`]);
	await run('qemu-io', ['-f', format, ...writes.flat(), image]);
}

async function startVm(image: string, format: string): Promise<{monitor: string; end: () => Promise<void>}> {
	const [monitor, second] = [path.join(folder, 'qmp.sock'), path.join(folder, 'second.sock')];
	const child = spawn(
		'qemu-system-x86_64',
		[
			...['-M', 'q35,accel=tcg', '-nodefaults', '-display', 'none', '-name', 'bench', '-S'],
			...[monitor, second].flatMap(socket => ['-qmp', `unix:${socket},server=on,wait=off`]),
			...['-blockdev', `${format},node-name=vda,file.driver=file,file.filename=${image}`],
			...['-device', 'virtio-blk-pci,id=vda,drive=vda'],
		],
		{stdio: 'ignore'},
	);
	for (;;) {
		const qmp = await QmpConnection.open({unix: second}).catch(() => undefined);
		if (!qmp) continue;
		await qmp.close();
		return {
			monitor,
			end: async () => {
				child.kill('SIGKILL');
				await once(child, 'exit');
			},
		};
	}
}

/** Seconds from the cut to the guest's being back on its images, and of the whole run. */
async function back(
	program: string,
	monitor: string,
	repository: string,
	more: readonly string[],
): Promise<[number, number]> {
	const args = [
		'backup',
		...more,
		'--qmp',
		monitor,
		'-r',
		repository,
		'--quiesce',
		'never',
		'--method',
		'overlay',
		'--json',
	];
	const began = performance.now();
	const child = spawn(process.execPath, [program, ...args], {stdio: ['ignore', 'pipe', 'inherit']});
	const at = new Map<string, number>();
	for await (const line of createInterface({input: child.stdout})) {
		const {message_type: type} = JSON.parse(line) as {message_type: string};
		at.set(type, performance.now());
	}
	if (!at.has('summary')) throw new Error('the backup failed');
	return [(at.get('settling')! - at.get('cut')!) / 1000, (performance.now() - began) / 1000];
}

const mount = await mountXfs();
try {
	const program = await installProgram(folder);
	const lines: Line[] = [];
	for (const format of ['raw', 'qcow2']) {
		for (const gib of options.sizes.split(',').map(Number)) {
			const [image, repository] = [path.join(mount, 'disk'), path.join(mount, 'repository')];
			await fs.mkdir(repository);
			await makeImage(image, format, gib);
			const vm = await startVm(image, format);
			try {
				const [first, hashed] = await back(program, vm.monitor, repository, []);
				const [second, unhashed] = await back(program, vm.monitor, repository, ['--no-hashes']);
				lines.push({gib, format, onOverlays: Math.max(first, second), hashed, unhashed});
			} finally {
				await vm.end();
			}
			for (const made of [image, repository]) await fs.rm(made, {recursive: true});
		}
	}
	const seconds = (value: number): string => `${value.toFixed(2)} s`;
	process.stdout.write(
		formatTable(
			[
				{title: 'SIZE', value: line => `${line.gib} GiB`, align: 'right'},
				{title: 'FORMAT', value: line => line.format},
				{title: 'ON OVERLAYS', value: line => seconds(line.onOverlays), align: 'right'},
				{title: 'WHOLE RUN', value: line => seconds(line.hashed), align: 'right'},
				{title: 'WITHOUT HASHES', value: line => seconds(line.unhashed), align: 'right'},
			],
			lines,
		),
	);
} finally {
	await run('umount', [mount]);
	await fs.rm(folder, {recursive: true});
}
