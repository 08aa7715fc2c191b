import path from 'node:path';
import type {InternalSnapshot} from '../block/nodes.ts';
import {stateOf} from '../repository/owner.ts';
import {isThere as isFileThere} from '../repository/durable-files.ts';
import type {GroupedSnapshot, SnapshotManifest} from '../snapshots/manifest.ts';
import {SNAPSHOT_FILE} from '../snapshots/layout.ts';
import {listPartialSnapshots} from '../snapshots/partial-snapshot.ts';
import type {DamagedSnapshot, Snapshot} from '../snapshots/snapshots.ts';
import {readChains, type VmChains} from './disk-chains.ts';
import {imagesOver} from './image-users.ts';
import {snapshotFolders, snapshotsIn} from './snapshot-folders.ts';
import {vmStateIn} from './internal-snapshots.ts';
import {type AnyVmRequest, lookAt} from './with-vm.ts';

export interface SnapshotListRequest extends AnyVmRequest {
	/** Where snapshots are told of, besides the folders of the images. */
	readonly folder?: string | undefined;
}

/** One image of a disk's chain. */
export interface ListedImage {
	readonly file: string;
	readonly format: string;
	readonly allocatedBytes: number | null;
	/** The snapshots whose state it holds, together with what it lies on: those whose overlay lies over it. */
	readonly holds: readonly string[];
	/** The image of this disk that lies on it, and those of others. None for the active one, mostly. */
	readonly usedBy: readonly string[];
	readonly internal: readonly InternalSnapshot[];
}

export interface ListedDisk {
	readonly name: string;
	readonly sizeBytes: number;
	/** The active one first, which the guest writes to. */
	readonly images: readonly ListedImage[];
}

export interface ListedSnapshot {
	readonly name: string;
	/** `unnoted`: an internal one that is told of nowhere but in the images. */
	readonly kind: SnapshotManifest['kind'];
	/** `whole`: its disks can be had. `broken`: an image that it needs is in no chain of the VM, or was merged into. */
	readonly state: 'whole' | 'broken' | 'damaged' | 'unfinished' | 'being taken' | 'unnoted';
	readonly cutAt: string | null;
	readonly consistency: string | null;
	readonly disks: readonly string[];
	/** What is written by now to the images over it; null where that is not told. */
	readonly overlayBytes: number | null;
	readonly memory: SnapshotManifest['memory'];
	readonly vmState: SnapshotManifest['vmState'];
	readonly group: SnapshotManifest['group'];
	/** The snapshots of its group that are not there: removed since, or never come to be. */
	readonly groupLacks: readonly GroupedSnapshot[];
	readonly warnings: readonly string[];
	readonly folder: string | null;
}

export interface SnapshotReport {
	readonly vm: string;
	readonly snapshots: readonly ListedSnapshot[];
	readonly disks: readonly ListedDisk[];
}

/** What snapshots a VM has, and what its disks are made of. Reads and changes nothing. */
export async function listVmSnapshots(request: SnapshotListRequest): Promise<SnapshotReport> {
	return lookAt(request, 'snapshot list', async vm => {
		const chains = await readChains(vm);
		const folders = snapshotFolders(vm.name, chains.graph, chains.qemu?.cwd, request.folder);
		const found = await snapshotsIn(folders);
		const noted = await Promise.all(found.map(snapshot => describe(snapshot, chains)));
		const names = new Set(noted.filter(({kind}) => kind === 'internal').map(({name}) => name));
		return {
			vm: vm.name,
			snapshots: [...noted, ...(await unfinishedIn(folders)), ...unnoted(chains, names)].sort(byTime),
			disks: await describeDisks(chains, found),
		};
	});
}

function byTime(one: ListedSnapshot, other: ListedSnapshot): number {
	return (one.cutAt ?? '') < (other.cutAt ?? '') ? -1 : 1;
}

async function describe(snapshot: Snapshot | DamagedSnapshot, chains: VmChains): Promise<ListedSnapshot> {
	const {name, folder} = snapshot;
	const nothing = {
		...ALONE,
		cutAt: null,
		consistency: null,
		disks: [],
		overlayBytes: null,
		memory: null,
		vmState: null,
	};
	if (snapshot.state === 'damaged') {
		return {...nothing, name, folder, kind: 'external', state: 'damaged', warnings: [snapshot.reason]};
	}
	const {kind, cutAt, consistency, memory, vmState, group, warnings, disks} = snapshot.manifest;
	const whole = disks.every(disk => isThere(snapshot.manifest, disk, chains));
	return {
		...{name, folder, kind, cutAt, consistency, memory, vmState, group, warnings},
		groupLacks: await missingOf(group),
		state: whole ? 'whole' : 'broken',
		disks: disks.map(disk => disk.name),
		overlayBytes: sumOf(disks.map(({overlay}) => overlay && allocatedOf(overlay.file, chains))),
	};
}

const ALONE = {group: null, groupLacks: []} as const;

async function missingOf(group: SnapshotManifest['group']): Promise<GroupedSnapshot[]> {
	const missing: GroupedSnapshot[] = [];
	for (const member of group?.members ?? []) {
		if (!(await isFileThere(path.join(member.folder, SNAPSHOT_FILE)))) missing.push(member);
	}
	return missing;
}

type SnapshotDisk = SnapshotManifest['disks'][number];

/** For an external one both its base and its overlay are in the chain, the one directly on the other. */
function isThere(
	{name, kind}: SnapshotManifest,
	{name: disk, base, overlay, spoiled = false}: SnapshotDisk,
	{chains}: VmChains,
): boolean {
	if (spoiled) return false;
	const chain = chains.find(one => one.disk.name === disk);
	if (kind === 'internal') {
		return (
			chain?.layers.some(({file, node}) => file === base.file && node.snapshots.some(one => one.name === name)) === true
		);
	}
	const at = chain?.layers.findIndex(({file}) => file === base.file) ?? -1;
	return at > 0 && chain?.layers[at - 1]?.file === overlay?.file;
}

function allocatedOf(file: string, {chains}: VmChains): number | null {
	const layer = chains.flatMap(({layers}) => layers).find(one => one.file === file);
	return layer?.node.allocatedBytes ?? null;
}

function sumOf(numbers: readonly (number | null)[]): number | null {
	const known = numbers.filter(number => number !== null);
	return known.length === 0 ? null : known.reduce((sum, number) => sum + number, 0);
}

async function unfinishedIn(folders: readonly string[]): Promise<ListedSnapshot[]> {
	const lists = await Promise.all(folders.map(folder => listPartialSnapshots(folder)));
	return Promise.all(
		lists.flat().map(async ({name, folder, partial}): Promise<ListedSnapshot> => {
			const isAlive = partial !== undefined && (await stateOf(partial.journal)) === 'alive';
			return {
				...{name, folder, kind: partial?.plan.kind ?? 'external', cutAt: partial?.journal.begunAt ?? null},
				state: isAlive ? 'being taken' : 'unfinished',
				disks: partial?.plan.disks.map(disk => disk.name) ?? [],
				...{...ALONE, consistency: null, overlayBytes: null, memory: null, vmState: null, warnings: []},
			};
		}),
	);
}

/** Internal ones that other programs have taken. */
function unnoted({chains}: VmChains, known: ReadonlySet<string>): ListedSnapshot[] {
	const holding = chains.flatMap(({disk, layers: [top]}) =>
		top.node.snapshots.map(snapshot => ({disk: disk.name, snapshot})),
	);
	const byName = Map.groupBy(
		holding.filter(({snapshot}) => !known.has(snapshot.name)),
		({snapshot}) => snapshot.name,
	);
	return Array.from(byName, ([name, held]) => ({
		...{name, kind: 'internal' as const, state: 'unnoted' as const, folder: null},
		cutAt: held[0]?.snapshot.takenAt.toISOString() ?? null,
		disks: held.map(({disk}) => disk),
		vmState: vmStateIn(held.map(({disk, snapshot}) => ({disk, memoryBytes: snapshot.memoryBytes}))) ?? null,
		...{...ALONE, consistency: null, overlayBytes: null, memory: null, warnings: []},
	}));
}

async function describeDisks(
	{chains}: VmChains,
	found: readonly (Snapshot | DamagedSnapshot)[],
): Promise<ListedDisk[]> {
	const snapshots = found.flatMap(one => (one.state === 'readable' ? [one.manifest] : []));
	return Promise.all(
		chains.map(async ({disk, layers}) => {
			const files = layers.flatMap(({file}) => file ?? []);
			const folders = files.map(file => path.dirname(file));
			const others = await imagesOver(files, {folders, except: files});
			return {
				name: disk.name,
				sizeBytes: disk.medium.virtualSize,
				images: layers.map(({name, file = name, node}, depth) => ({
					...{file, format: node.driver, allocatedBytes: node.allocatedBytes ?? null, internal: node.snapshots},
					holds: snapshots
						.filter(({disks}) =>
							disks.some(disk => disk.overlay !== null && disk.base.file === file && disk.spoiled !== true),
						)
						.map(snapshot => snapshot.name),
					usedBy: [layers[depth - 1]?.file, others.get(file)].filter(user => user !== undefined),
				})),
			};
		}),
	);
}
