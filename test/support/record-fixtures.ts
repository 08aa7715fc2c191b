/**
 * Records what real QEMUs answer, for the tests of the block model and of the probe: see fixtures/README.md.
 *
 *     node test/support/record-fixtures.ts --qemu qemu-system-x86_64
 *
 * Stands alone on purpose: it speaks QMP by hand, so that a fault in `src/` cannot get into the recordings.
 */
import {execFile, spawn, type ChildProcess} from 'node:child_process';
import {once} from 'node:events';
import {mkdir, mkdtemp, rm, writeFile} from 'node:fs/promises';
import {connect, type Socket} from 'node:net';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {createInterface} from 'node:readline';
import {setTimeout as sleep} from 'node:timers/promises';
import {promisify} from 'node:util';

type Json = null | boolean | number | string | Json[] | JsonObject;
interface JsonObject {
	[key: string]: Json;
}

interface Command {
	readonly execute: string;
	readonly arguments?: JsonObject;
}

/** The machine's files are written as `/vm/…` here and in the recordings; they are in a temporary folder while it runs. */
interface Scenario {
	/** Arguments of `qemu-img`, one call a line. */
	readonly images?: string;
	/** QEMU's arguments, beside `always`. */
	readonly args: string;
	/** Commands to reach the state to record. */
	readonly commands?: readonly Command[];
	/** Start it once and kill it before: bitmaps that are in the images by then become inconsistent. */
	readonly killedBefore?: true;
	/** The first major version of QEMU that knows the options. */
	readonly since?: number;
}

const fixtures = join(import.meta.dirname, '../../fixtures');
const always = '-machine q35,accel=tcg -S -display none -qmp unix:/vm/qmp.sock,server=on,wait=off';

/** A protocol node and a format node over it: what careful callers of QEMU write. */
const nodes = (disk: string, format = 'qcow2', options = '') => `
	-blockdev driver=file,node-name=${disk}-file,filename=/vm/${disk}.${format}${options}
	-blockdev driver=${format},node-name=${disk}-format,file=${disk}-file${options}`;

const virtio = (disk: string, node = `${disk}-format`, options = '') =>
	`-device virtio-blk-pci,id=${disk},drive=${node}${options}`;

const add = (options: JsonObject): Command => ({execute: 'blockdev-add', arguments: options});

const addTarget = (name: string): Command =>
	add({
		'driver': 'qcow2',
		'node-name': name,
		'file': {driver: 'file', filename: `/vm/${name}.qcow2`},
	});

const write = (disk: string): Command => ({
	execute: 'human-monitor-command',
	arguments: {'command-line': `qemu-io -d /machine/peripheral/${disk}/virtio-backend "write 0 2M"`},
});

/** So slow that the job waits after its first requests. */
const slow = {'speed': 64 * 1024, 'auto-finalize': false, 'auto-dismiss': false};

const scenarios: Record<string, Scenario> = {
	'empty': {args: '-nodefaults'},

	'blockdev': {
		images: `
			create -f qcow2 /vm/vda.qcow2 4M
			create -f qcow2 /vm/vdb.qcow2 8M`,
		args: `-nodefaults -name guest=web,debug-threads=on -uuid 3b0f6c1e-6f0e-4b53-9d3e-5a1d7c2f8e90
			${nodes('vda')} ${virtio('vda')}
			${nodes('vdb')} ${virtio('vdb')}
			-device virtio-serial -chardev socket,id=qga0,path=/vm/qga.sock,server=on,wait=off
			-device virtserialport,chardev=qga0,id=agent0,name=org.qemu.guest_agent.0`,
	},

	'drive': {
		images: `
			create -f qcow2 /vm/disk-a.qcow2 4M
			create -f raw /vm/disk-b.raw 4M
			create -f qcow2 /vm/disk-c.qcow2 4M`,
		args: `-nodefaults -name plain
			-drive if=virtio,format=qcow2,file=/vm/disk-a.qcow2
			-drive if=virtio,format=raw,file=/vm/disk-b.raw
			-drive if=virtio,format=qcow2,file=/vm/disk-c.qcow2,id=data`,
	},

	'auto': {images: 'create -f raw /vm/disk-a.raw 4M', args: '-nic none -hda /vm/disk-a.raw'},

	'scsi': {
		images: `
			create -f qcow2 /vm/sda.qcow2 4M
			create -f raw /vm/tools.iso 2M`,
		args: `-nodefaults -device virtio-scsi-pci,id=scsi0
			${nodes('sda')} -device scsi-hd,id=sda,drive=sda-format
			-device scsi-cd,id=cd-empty
			-blockdev driver=file,node-name=tools-file,filename=/vm/tools.iso,read-only=on
			-blockdev driver=raw,node-name=tools-format,file=tools-file,read-only=on
			-device scsi-cd,id=cd-tools,drive=tools-format`,
	},

	'nvme': {
		images: `
			create -f qcow2 /vm/one.qcow2 4M
			create -f qcow2 /vm/two.qcow2 4M`,
		args: `-nodefaults
			${nodes('one')} -device nvme,id=nvme0,serial=one,drive=one-format
			${nodes('two')} -device nvme,id=nvme1,serial=two -device nvme-ns,id=ns1,bus=nvme1,drive=two-format`,
	},

	'iothread': {
		images: `
			create -f qcow2 /vm/vda.qcow2 4M
			create -f qcow2 /vm/sda.qcow2 4M`,
		args: `-nodefaults -object iothread,id=io0 -object iothread,id=io1
			${nodes('vda')} ${virtio('vda', 'vda-format', ',iothread=io0')}
			-device virtio-scsi-pci,id=scsi0,iothread=io1
			${nodes('sda')} -device scsi-hd,id=sda,drive=sda-format,bus=scsi0.0`,
	},

	'iothread-vq-mapping': {
		since: 9,
		images: 'create -f qcow2 /vm/vda.qcow2 4M',
		args: `-nodefaults -object iothread,id=io0 -object iothread,id=io1 ${nodes('vda')}
			-device {"driver":"virtio-blk-pci","id":"vda","drive":"vda-format","iothread-vq-mapping":[{"iothread":"io0"},{"iothread":"io1"}]}`,
	},

	'read-only': {
		images: 'create -f qcow2 /vm/vda.qcow2 4M',
		args: `-nodefaults ${nodes('vda', 'qcow2', ',read-only=on')} ${virtio('vda')}`,
	},

	'share-rw': {
		images: 'create -f raw /vm/vda.raw 4M',
		args: `-nodefaults ${nodes('vda', 'raw')} ${virtio('vda', 'vda-format', ',share-rw=on')}`,
	},

	'pflash': {
		images: `
			create -f raw /vm/code.raw 3653632
			create -f raw /vm/vars.raw 540672
			create -f qcow2 /vm/vda.qcow2 4M`,
		args: `-nodefaults -machine pflash0=code-format,pflash1=vars-format
			${nodes('code', 'raw', ',read-only=on')} ${nodes('vars', 'raw')}
			${nodes('vda')} ${virtio('vda')}`,
	},

	'pflash-drive': {
		images: `
			create -f raw /vm/code.fd 3653632
			create -f raw /vm/vars.fd 540672`,
		args: `-nodefaults
			-drive if=pflash,unit=0,format=raw,readonly=on,file=/vm/code.fd
			-drive if=pflash,unit=1,format=raw,file=/vm/vars.fd`,
	},

	// One chain with a name for every node, one that QEMU opened by itself.
	'overlay': {
		images: `
			create -f qcow2 /vm/base.qcow2 4M
			create -f qcow2 -b /vm/base.qcow2 -F qcow2 /vm/middle.qcow2
			create -f qcow2 -b /vm/middle.qcow2 -F qcow2 /vm/top.qcow2
			create -f raw /vm/vdb-base.raw 4M
			create -f qcow2 -b vdb-base.raw -F raw /vm/vdb-middle.qcow2
			create -f qcow2 -b vdb-middle.qcow2 -F qcow2 /vm/vdb.qcow2`,
		args: `-nodefaults
			-blockdev driver=file,node-name=base-file,filename=/vm/base.qcow2,read-only=on
			-blockdev driver=qcow2,node-name=base-format,file=base-file,read-only=on
			-blockdev driver=file,node-name=middle-file,filename=/vm/middle.qcow2,read-only=on
			-blockdev driver=qcow2,node-name=middle-format,file=middle-file,backing=base-format,read-only=on
			-blockdev driver=file,node-name=top-file,filename=/vm/top.qcow2
			-blockdev driver=qcow2,node-name=top-format,file=top-file,backing=middle-format
			${virtio('vda', 'top-format')}
			${nodes('vdb')} ${virtio('vdb')}`,
	},

	'throttle': {
		images: `
			create -f qcow2 /vm/vda.qcow2 4M
			create -f qcow2 /vm/vdb.qcow2 4M`,
		args: `-nodefaults -object throttle-group,id=limits,x-iops-total=100
			${nodes('vda')} -blockdev driver=throttle,node-name=vda-throttle,throttle-group=limits,file=vda-format
			${virtio('vda', 'vda-throttle')}
			${nodes('vdb')} -blockdev driver=copy-on-read,node-name=vdb-copy-on-read,file=vdb-format
			${virtio('vdb', 'vdb-copy-on-read')}`,
	},

	'luks': {
		images: `
			create --object secret,id=key,data=fixture -f luks -o key-secret=key,iter-time=10 /vm/vda.luks 4M
			create --object secret,id=key,data=fixture -f qcow2 -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10 /vm/vdb.qcow2 4M`,
		args: `-nodefaults -object secret,id=key,data=fixture
			${nodes('vda', 'luks').replace('driver=luks', 'driver=luks,key-secret=key')} ${virtio('vda')}
			${nodes('vdb').replace('driver=qcow2', 'driver=qcow2,encrypt.format=luks,encrypt.key-secret=key')} ${virtio('vdb')}`,
	},

	// vda: two bitmaps; vdb: one in use by a job, which brings one without a name; vdc: one that a crash left inconsistent.
	'bitmaps': {
		images: `
			create -f qcow2 /vm/vda.qcow2 4M
			create -f qcow2 /vm/vdb.qcow2 4M
			create -f qcow2 /vm/vdc.qcow2 4M
			create -f qcow2 /vm/target.qcow2 4M
			bitmap --add /vm/vdc.qcow2 before-crash`,
		killedBefore: true,
		args: `-nodefaults
			${nodes('vda')} ${virtio('vda')}
			${nodes('vdb')} ${virtio('vdb')}
			${nodes('vdc')} ${virtio('vdc')}`,
		commands: [
			{
				execute: 'block-dirty-bitmap-add',
				arguments: {node: 'vda-format', name: 'recording', persistent: true},
			},
			{
				execute: 'block-dirty-bitmap-add',
				arguments: {node: 'vda-format', name: 'disabled', disabled: true, granularity: 32768},
			},
			{
				execute: 'block-dirty-bitmap-add',
				arguments: {node: 'vdb-format', name: 'in-use', persistent: true},
			},
			write('vda'),
			write('vdb'),
			addTarget('target'),
			{
				execute: 'blockdev-backup',
				arguments: {
					'job-id': 'incremental',
					'device': 'vdb-format',
					'target': 'target',
					'sync': 'incremental',
					'bitmap': 'in-use',
					...slow,
				},
			},
		],
	},

	// vda: our backup, its filter is the device's root; vdb: somebody else's job.
	'during-backup': {
		images: `
			create -f qcow2 -o preallocation=full /vm/vda.qcow2 8M
			create -f qcow2 -o preallocation=full /vm/vdb.qcow2 32M
			create -f qcow2 /vm/qsc-k3f9-vda-target.qcow2 8M
			create -f qcow2 /vm/new-home.qcow2 32M`,
		args: `-nodefaults ${nodes('vda')} ${virtio('vda')} ${nodes('vdb')} ${virtio('vdb')}`,
		commands: [
			addTarget('qsc-k3f9-vda-target'),
			addTarget('new-home'),
			{
				execute: 'blockdev-backup',
				arguments: {
					'job-id': 'qsc-k3f9-vda',
					'device': 'vda-format',
					'target': 'qsc-k3f9-vda-target',
					'sync': 'full',
					'filter-node-name': 'qsc-k3f9-vda-filter',
					...slow,
				},
			},
			{
				execute: 'blockdev-mirror',
				arguments: {'job-id': 'move-vdb', 'device': 'vdb-format', 'target': 'new-home', 'sync': 'full', ...slow},
			},
		],
	},
};

const recorded: readonly Command[] = [
	{execute: 'query-version'},
	{execute: 'query-name'},
	{execute: 'query-uuid'},
	{execute: 'query-status'},
	{execute: 'query-block'},
	{execute: 'query-named-block-nodes', arguments: {flat: true}},
	{execute: 'x-debug-query-block-graph'},
	{execute: 'query-jobs'},
	{execute: 'query-chardev'},
];

class QmpError extends Error {}

interface Qemu extends AsyncDisposable {
	execute(command: Command): Promise<Json>;
}

/** QEMU with its monitor ready. It is killed at the end of the block: there is nothing in it to keep. */
async function start(command: readonly string[], folder: string): Promise<Qemu> {
	const child = spawn(command[0]!, command.slice(1), {cwd: folder, stdio: ['ignore', 'ignore', 'pipe']});
	await once(child, 'spawn');
	const words: string[] = [];
	child.stderr.setEncoding('utf8').on('data', (text: string) => {
		words.push(text);
	});
	const exit = once(child, 'exit');

	try {
		const socket = await connectWhenReady(join(folder, 'qmp.sock'), child);
		const execute = await negotiate(socket);
		return {
			execute,
			async [Symbol.asyncDispose]() {
				child.kill('SIGKILL');
				await exit;
				socket.destroy();
				await rm(join(folder, 'qmp.sock'));
			},
		};
	} catch (cause) {
		child.kill('SIGKILL');
		throw new Error(`${command.join(' ')}\n${words.join('')}`, {cause});
	}
}

async function connectWhenReady(path: string, child: ChildProcess): Promise<Socket> {
	for (const end = Date.now() + 30_000; Date.now() < end && child.exitCode === null;) {
		const socket = connect(path);
		try {
			await once(socket, 'connect');
			return socket;
		} catch {
			socket.destroy();
			await sleep(20);
		}
	}
	throw new Error('QEMU opened no monitor');
}

async function negotiate(socket: Socket): Promise<Qemu['execute']> {
	const lines = createInterface({input: socket})[Symbol.asyncIterator]();

	const next = async (): Promise<JsonObject> => {
		const line = await lines.next();
		if (line.done) throw new Error('QEMU closed its monitor');
		return JSON.parse(line.value) as JsonObject;
	};

	const execute = async (command: Command): Promise<Json> => {
		socket.write(JSON.stringify(command));
		for (;;) {
			const {return: result, error} = await next();
			if (result !== undefined) return result;
			if (error !== undefined) throw new QmpError(`${JSON.stringify(command)}: ${JSON.stringify(error)}`);
		}
	};

	await next();
	await execute({execute: 'qmp_capabilities'});
	return execute;
}

async function jobsMoved(qemu: Qemu): Promise<void> {
	for (const end = Date.now() + 10_000; Date.now() < end;) {
		const jobs = (await qemu.execute({execute: 'query-jobs'})) as JsonObject[];
		if (jobs.every(job => job['current-progress'] !== 0)) return;
		await sleep(50);
	}
	throw new Error('a job did not begin to copy');
}

/** What QOM says about the device of each disk, and about the controller of a SCSI disk, which has the I/O thread. */
async function readDevices(qemu: Qemu, blocks: JsonObject[]): Promise<JsonObject> {
	const read = async (path: string) => {
		const device: JsonObject = {};
		for (const property of ['type', 'iothread', 'iothread-vq-mapping', 'share-rw', 'parent_bus']) {
			try {
				device[property] = await qemu.execute({execute: 'qom-get', arguments: {path, property}});
			} catch (error) {
				// Not every device has every property.
				if (!(error instanceof QmpError)) throw error;
			}
		}
		return device;
	};

	const devices: JsonObject = {};
	for (const {qdev} of blocks) {
		if (typeof qdev !== 'string') continue;
		const path = qdev.startsWith('/') ? qdev : `/machine/peripheral/${qdev}`;
		const device = await read(path);
		devices[path] = device;
		const {type, parent_bus: bus} = device;
		if (typeof type !== 'string' || typeof bus !== 'string' || !type.startsWith('scsi-')) continue;
		const controller = dirname(bus);
		devices[controller] = await read(controller);
	}
	return devices;
}

/** Makes two recordings of the same state equal: folders, random names and measured numbers become constants. */
function normalized(value: Json, folder: string): Json {
	const text = JSON.stringify(value, (key, member: Json) => {
		if (key === 'iters' || key === 'master-key-iters') return 1000;
		return key === 'uuid' ? '00000000-1111-2222-3333-444444444444' : member;
	});
	return JSON.parse(text.replaceAll(folder, '/vm').replaceAll(/#block(\d+)\d\d\b/g, '#block$142')) as Json;
}

/** LUKS measures the CPU; where its clock is coarse, as in many virtual machines, that fails now and then. */
async function qemuImg(args: readonly string[], tries = 10): Promise<void> {
	try {
		await promisify(execFile)('qemu-img', args);
	} catch (error) {
		if (tries === 1 || !String(error).includes('CPU usage')) throw error;
		await qemuImg(args, tries - 1);
	}
}

async function record(qemuCommand: readonly string[], {images, args, commands, killedBefore}: Scenario) {
	const folder = await mkdtemp(join(tmpdir(), 'quiesce-fixtures-'));
	const inFolder = (text: string) => text.replaceAll('/vm/', `${folder}/`);
	const words = (text: string) => text.split(/\s+/).filter(word => word !== '');
	try {
		for (const line of (images ?? '').split('\n')) {
			if (line.trim() !== '') await qemuImg(words(inFolder(line)));
		}
		const argv = [...words(always), ...words(args)];
		const startQemu = () => start([...qemuCommand, ...argv.map(inFolder)], folder);
		if (killedBefore) await (await startQemu())[Symbol.asyncDispose]();

		await using qemu = await startQemu();
		for (const command of commands ?? []) {
			await qemu.execute(JSON.parse(inFolder(JSON.stringify(command))) as Command & JsonObject);
		}
		await jobsMoved(qemu);

		const replies: JsonObject = {};
		for (const command of recorded) replies[command.execute] = await qemu.execute(command);
		replies['qom'] = await readDevices(qemu, replies['query-block'] as JsonObject[]);
		return {commandLine: ['qemu-system-x86_64', ...argv], replies: normalized(replies, folder)};
	} finally {
		await rm(folder, {recursive: true});
	}
}

async function readSchema(qemuCommand: readonly string[]): Promise<{version: [number, number]; schema: Json[]}> {
	const folder = await mkdtemp(join(tmpdir(), 'quiesce-fixtures-'));
	try {
		const argv = `-machine none -display none -qmp unix:${folder}/qmp.sock,server=on,wait=off`.split(' ');
		await using qemu = await start([...qemuCommand, ...argv], folder);
		const {qemu: version} = (await qemu.execute({execute: 'query-version'})) as {qemu: {major: number; minor: number}};
		const schema = (await qemu.execute({execute: 'query-qmp-schema'})) as Json[];
		return {version: [version.major, version.minor], schema};
	} finally {
		await rm(folder, {recursive: true});
	}
}

const [flag, ...qemuCommand] = process.argv.slice(2);
if (flag !== '--qemu' || qemuCommand.length === 0) {
	console.error('usage: node test/support/record-fixtures.ts --qemu COMMAND…');
	process.exit(2);
}

const {
	version: [major, minor],
	schema,
} = await readSchema(qemuCommand);
const version = `${major}.${minor}`;
const entities = schema.map(entity => JSON.stringify(entity)).join(',\n');
await mkdir(join(fixtures, 'qmp-schema'), {recursive: true});
await writeFile(join(fixtures, 'qmp-schema', `${version}.json`), `[\n${entities}\n]\n`);

const graphs = join(fixtures, 'graphs', version);
await rm(graphs, {recursive: true, force: true});
await mkdir(graphs, {recursive: true});
for (const [name, scenario] of Object.entries(scenarios)) {
	if (major < (scenario.since ?? 0)) continue;
	const recording = await record(qemuCommand, scenario);
	await writeFile(join(graphs, `${name}.json`), `${JSON.stringify({version, ...recording}, null, '\t')}\n`);
	console.log(`${version} ${name}`);
}
