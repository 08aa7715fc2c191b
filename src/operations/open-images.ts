import fs from 'node:fs/promises';
import path from 'node:path';
import type {BlockGraph} from '../block/graph.ts';
import {childOf} from '../block/nodes.ts';
import {readBlockGraph} from '../block/read-graph.ts';
import {asError, QuiesceError, UsageError} from '../errors.ts';
import {commandLineFacts} from '../host/command-line-facts.ts';
import {parseCommandLine} from '../host/command-line.ts';
import {listQemuProcesses, processServing} from '../host/processes.ts';
import {type Opener, openersOf, writersOf} from '../host/writers.ts';
import {type ClosedImage, readImageChain} from '../images/image-chain.ts';
import {imageAbove} from '../images/images-above.ts';
import {StorageDaemon} from '../images/storage-daemon.ts';
import {QmpCommandError, QmpDisconnectedError} from '../qmp/errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpSchema} from '../qmp/introspection.ts';
import type {QmpBlockdevOptions} from '../qmp/schema.ts';
import type {Transcript} from '../qmp/transcript.ts';
import type {Machine} from '../repository/machine.ts';
import {imagesSocketIn} from '../sink/nbd-socket.ts';
import {snapshotsFolder} from '../snapshots/layout.ts';
import {listSnapshots} from '../snapshots/snapshots.ts';
import type {KnownVm} from './vm-images.ts';
import type {ImagesSession} from './vm-session.ts';

export interface OpenOptions {
	/** Of the run: the daemon's socket is there, from which a later run tells whose it is. */
	readonly folder: string;
	readonly transcript?: Transcript | undefined;
	/** Told when the images could not be closed as they should. */
	readonly tell: (what: string) => void;
}

interface OpenDisk {
	readonly name: string;
	readonly chain: readonly [ClosedImage, ...ClosedImage[]];
	/** In the daemon. */
	readonly node: string;
}

/**
 * Opens the images of a VM that is off, as its QEMU would: for writing, for their bitmaps, which belong to whoever has
 * them open. Nobody else has them then. Throws `REFUSED`, with who does, where somebody has. If this process dies, the
 * daemon closes them in order.
 */
export async function openImages(vm: KnownVm, {folder, transcript, tell}: OpenOptions): Promise<ImagesSession> {
	const disks: OpenDisk[] = [];
	for (const {name, image} of vm.disks) {
		if (!image) continue;
		disks.push({name, chain: await readImageChain(image.path, image.format), node: `image${disks.length}`});
	}
	requireDifferent(disks);
	await requireUnused(vm, disks);
	for (const disk of disks) await requireTop(vm.name, disk);
	const socket = imagesSocketIn(folder);
	const daemon = await StorageDaemon.start(socket, {record: transcript?.of('images'), whenKilled: 'close'});
	const {qmp} = daemon;
	const close = async (): Promise<void> => {
		await daemon.stop();
		await fs.rm(socket, {force: true});
	};
	try {
		for (const disk of disks) await openDisk(daemon, vm.name, disk);
		const schema = await QmpSchema.read(qmp);
		const {major, minor, micro} = qmp.version.qemu;
		const version = `${major}.${minor}.${micro}`;
		const detached = vm.disks.map(({name, deviceType}) => ({
			...{name, deviceType},
			exportId: disks.find(disk => disk.name === name)?.node,
		}));
		const readGraph = (over = qmp): Promise<BlockGraph> => readBlockGraph(over, schema, detached);
		return {
			power: 'off',
			...{qmp, schema, name: vm.name, uuid: vm.uuid, version, running: false, status: 'off'},
			lockKey: lockKeyOf(vm),
			daemon: await processServing(socket),
			machine: machineOf(vm, disks, version),
			readGraph,
			settle: async () => storeBitmaps(qmp, await readGraph(), tell),
			close,
		};
	} catch (error) {
		await close();
		throw error;
	}
}

/** That of the same VM while it runs. */
export function lockKeyOf({uuid, name}: Pick<KnownVm, 'uuid' | 'name'>): string {
	return `vm ${uuid ?? name}`;
}

/** The last point's, as the command line there names the images as it does; else what there is to say. */
function machineOf({name, uuid, machine}: KnownVm, disks: readonly OpenDisk[], version: string): Machine {
	const known = machine?.disks ?? [];
	const added = disks.filter(disk => !known.some(candidate => candidate.name === disk.name));
	return {
		format: 1,
		name,
		uuid: uuid ?? null,
		machineType: null,
		qemuVersion: version,
		binary: null,
		commandLine: null,
		capturedAt: new Date().toISOString(),
		...machine,
		disks: [
			...known,
			...added.map(({name: disk, chain: [{path, format}]}) => ({name: disk, filename: path, format, nodeNames: []})),
		],
	};
}

function requireDifferent(disks: readonly OpenDisk[]): void {
	const by = new Map<string, string>();
	for (const {name, chain} of disks) {
		const image = chain[0].path;
		const other = by.get(image);
		if (other !== undefined) throw new UsageError(`${other} and ${name} cannot both be ${image}`);
		by.set(image, name);
	}
}

/** The VM goes on from the image that lies on all others, which its last point cannot know if a snapshot came later. */
async function requireTop(vm: string, {name, chain: [{path: image}]}: OpenDisk): Promise<void> {
	const snapshots = await listSnapshots(snapshotsFolder(path.dirname(image), vm));
	const overlays = snapshots.flatMap(snapshot => (snapshot.state === 'readable' ? snapshot.manifest.disks : []));
	const files = overlays.flatMap(({overlay}) => (overlay ? [overlay.file] : []));
	const above = await imageAbove(image, files);
	if (above === undefined) return;
	throw new QuiesceError('REFUSED', `${image} is not to be opened: ${above} lies on it`, {
		hint: `If the VM starts from that, name it: --image ${name}=${above},format=qcow2. If nothing uses it, move it away.`,
	});
}

/** QEMU's locks tell that somebody has an image, and not who. A program without locks is found only so. */
async function requireUnused({name}: KnownVm, disks: readonly OpenDisk[]): Promise<void> {
	const files = disks.flatMap(({chain}) => chain.map(({path}) => path));
	for (const [file, opener] of await writersOf(files, [process.pid])) {
		throw inUse(file, `${await nameOf(opener)} has it open for writing`, name);
	}
}

function inUse(file: string, why: string, vm: string, cause?: unknown): QuiesceError {
	return new QuiesceError('REFUSED', `${file} is in use: ${why}`, {
		cause,
		hint: `If ${vm} runs, it is not off: name it, or its monitor, without --off and --image.`,
	});
}

async function nameOf({pid, name}: Opener): Promise<string> {
	const qemu = (await listQemuProcesses()).find(process => process.pid === pid);
	const facts = qemu && commandLineFacts(parseCommandLine(qemu.argv.slice(1)));
	const vm = facts?.name ?? facts?.uuid;
	return `${vm === undefined ? '' : `VM ${vm}, `}process ${pid} (${name})`;
}

/** What lies beneath is opened as the headers say, which have been read: each names the format of the next. */
async function openDisk(daemon: StorageDaemon, vm: string, disk: OpenDisk): Promise<void> {
	try {
		for (const node of nodesOf(disk)) await daemon.qmp.execute('blockdev-add', node);
		// It holds the place of the device: what merges images, or puts one over them, moves it.
		const {node} = disk;
		const root = {'type': 'nbd' as const, 'id': node, 'name': node, 'node-name': node, 'writable': false};
		await daemon.qmp.execute('block-export-add', root);
	} catch (cause) {
		if (!(cause instanceof QmpCommandError)) throw cause;
		const files = disk.chain.map(({path}) => path);
		for (const [file, opener] of await openersOf(files, [process.pid, daemon.pid])) {
			throw inUse(file, `${await nameOf(opener)} has it open`, vm, cause);
		}
		throw new QuiesceError('REFUSED', `the image of ${disk.name} cannot be opened: ${cause.message}`, {
			cause,
			hint: 'We have to be able to write to it, and no other program, here or on another host, may have it open.',
		});
	}
}

type NamedNode = QmpBlockdevOptions & {'node-name': string};

function nodesOf({node, chain: [{path, format, kind}]}: OpenDisk): [NamedNode, NamedNode] {
	const file = `${node}-file`;
	return [
		{'driver': kind === 'file' ? 'file' : 'host_device', 'node-name': file, 'filename': path},
		{'driver': format, 'node-name': node, file},
	];
}

/**
 * Has the bitmaps stored in the images on which the disks lie, which closing them does too, but without a word where it fails:
 * opening an image again read-only tells (block/qcow2-bitmap.c qcow2_reopen_bitmaps_ro). One that was opened beneath another
 * cannot be opened again so, for want of a name.
 */
async function storeBitmaps(
	qmp: QmpConnection,
	{disks, nodes}: BlockGraph,
	tell: (what: string) => void,
): Promise<void> {
	for (const {name, medium} of disks) {
		const node = medium && nodes.get(medium.node);
		const file = node && childOf(node, 'file');
		if (!node || file === undefined || node.driver !== 'qcow2' || node.name.startsWith('#')) continue;
		// What is not named anew, QEMU would take away.
		const below = node.backing === undefined ? {} : {backing: node.backing};
		const options = {'driver': 'qcow2' as const, 'node-name': node.name, 'read-only': true, file, ...below};
		try {
			await qmp.execute('blockdev-reopen', {options: [options]});
		} catch (error) {
			if (!(error instanceof QmpCommandError) && !(error instanceof QmpDisconnectedError)) throw error;
			tell(`${name}: the next point has to be full: its bitmaps could not be stored: ${asError(error).message}`);
		}
	}
}
