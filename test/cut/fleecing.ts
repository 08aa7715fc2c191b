import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom} from 'rxjs';
import {onTestFinished} from 'vitest';
import {devicePath} from '../../src/block/devices.ts';
import type {Disk} from '../../src/block/graph.ts';
import {objectName} from '../../src/block/names.ts';
import {readBlockGraph} from '../../src/block/read-graph.ts';
import type {Cut} from '../../src/cut/cut.ts';
import {type FleeceContext, type FleeceDisk, prepareFleece} from '../../src/cut/fleece.ts';
import {runJobs} from '../../src/jobs/run-jobs.ts';
import {unwindInside} from '../../src/operations/unwind.ts';
import type {QmpConnection} from '../../src/qmp/connection.ts';
import {QmpSchema} from '../../src/qmp/introspection.ts';
import {executeAny} from '../jobs/bare-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';

export const RUN = 'abc123';
export const WAYS = ['gates', 'pause'] as const;

export interface FleeceWishes extends Partial<
	Pick<FleeceContext, 'by' | 'running' | 'maxStallSeconds' | 'speedBytesPerSecond' | 'qemuUid'>
> {
	/** The disks' names; else all that the guest can write. */
	readonly only?: readonly string[];
	/** Taken for disks that the guest cannot write. */
	readonly readOnly?: readonly string[];
	/** Else a folder of its own. */
	readonly scratchFolder?: string;
	/** The node of each device, in place of the one that it has. */
	readonly root?: string;
}

/** A VM whose disks can be fleeced again and again. */
export interface Fleecing {
	readonly schema: QmpSchema;
	/** Where scratch is. */
	readonly scratchFolder: string;
	/** The raw files that disks are copied to, in the order of `query-block`. */
	readonly copies: readonly string[];
	/** Makes new targets, and all ready for the cut. `to` is another connection to the same VM. */
	prepare: (to?: QmpConnection) => Promise<Cut>;
	/** Cuts, copies and releases; removes the targets, but not the files. */
	copyAll: (cut: Cut, hooks?: CopyHooks) => Promise<void>;
	/** Removes everything of the run. */
	unwind: () => Promise<string[]>;
}

export interface CopyHooks {
	/** After the instant, before anything is copied. */
	readonly onceCut?: () => Promise<void>;
	/** While the jobs are there. */
	readonly whileCopying?: () => Promise<void>;
}

export async function fleecing(qmp: QmpConnection, wishes: FleeceWishes = {}): Promise<Fleecing> {
	const {by = 'gates', running = false, maxStallSeconds = 4, only} = wishes;
	const schema = await QmpSchema.read(qmp);
	const {disks: all} = await readBlockGraph(qmp, schema);
	const disks = all.filter(({name, medium}) => medium && !medium.readOnly && (only?.includes(name) ?? true));
	const folder = temporaryFolder();
	const scratchFolder = wishes.scratchFolder ?? temporaryFolder();
	const copyOf = ({fileName}: Disk): string => path.join(folder, `${fileName}.copy`);
	return {
		schema,
		scratchFolder,
		copies: disks.map(copyOf),
		prepare: async (to = qmp) => {
			for (const disk of disks) await addTarget(to, disk.name, copyOf(disk), disk.medium!.virtualSize);
			return prepareFleece(
				{...wishes, qmp: to, run: RUN, compress: false, schema, maxStallSeconds, running, by, readsMayBeLong: false},
				disks.map(disk => fleeceDisk(disk, scratchFolder, wishes)),
			);
		},
		copyAll: async (cut, {onceCut, whileCopying} = {}) => {
			const start = async (): Promise<void> => {
				await cut.take();
				await onceCut?.();
				await cut.copy();
				await whileCopying?.();
			};
			await lastValueFrom(runJobs(qmp, cut.jobs, start, {pollMs: 50}));
			await cut.release();
			for (const {name} of disks) await qmp.execute('blockdev-del', {'node-name': objectName(RUN, name, 'target')});
		},
		unwind: () => unwindInside(qmp, schema, RUN),
	};
}

async function addTarget(qmp: QmpConnection, disk: string, file: string, sizeBytes: number): Promise<void> {
	fs.writeFileSync(file, '');
	fs.truncateSync(file, sizeBytes);
	await qmp.execute('blockdev-add', {
		'driver': 'file',
		'node-name': objectName(RUN, disk, 'target'),
		'filename': file,
	});
}

function fleeceDisk(
	{name, qdev, medium}: Disk,
	scratchFolder: string,
	{readOnly = [], root}: FleeceWishes,
): FleeceDisk {
	return {
		name,
		node: medium!.node,
		target: objectName(RUN, name, 'target'),
		sizeBytes: medium!.virtualSize,
		device: readOnly.includes(name)
			? undefined
			: {path: devicePath(qdev!), root: root ?? medium!.rootNode, scratchFolder},
	};
}

/** All that QEMU tells of its block layer: backends, nodes with their bitmaps, edges with their permissions, jobs. */
export async function blockState(qmp: QmpConnection): Promise<unknown> {
	const graph = (await executeAny(qmp, 'x-debug-query-block-graph')) as {
		nodes: {id: number; type: string; name: string}[];
		edges: {'parent': number; 'child': number; 'name': string; 'perm': string[]; 'shared-perm': string[]}[];
	};
	const nameOf = (id: number): string | undefined => {
		const node = graph.nodes.find(candidate => candidate.id === id);
		return node && `${node.type} ${node.name}`;
	};
	const edges = graph.edges.map(edge => ({...edge, parent: nameOf(edge.parent), child: nameOf(edge.child)}));
	return JSON.parse(
		JSON.stringify(
			{
				backends: await executeAny(qmp, 'query-block'),
				nodes: (await qmp.execute('query-named-block-nodes', {flat: true})).toSorted(byName),
				edges: edges.map(edge => JSON.stringify(edge)).sort(),
				jobs: await qmp.execute('query-jobs'),
				status: (await qmp.execute('query-status')).status,
			},
			// How large a file is changes as the guest writes.
			(key, value: unknown) => (key === 'actual-size' || isFileImage(key, value) ? undefined : value),
		),
	);
}

function isFileImage(key: string, value: unknown): boolean {
	return key === 'image' && (value as {format: string}).format === 'file';
}

function byName(one: {'node-name'?: string}, other: {'node-name'?: string}): number {
	return (one['node-name'] ?? '').localeCompare(other['node-name'] ?? '');
}

/** A connection whose commands are shown to `before` first, which may fail them. */
export function intercepted(
	qmp: QmpConnection,
	before: (command: string, args: unknown) => Promise<void> | void,
): QmpConnection {
	const execute = async (command: string, args?: object): Promise<unknown> => {
		await before(command, args);
		return executeAny(qmp, command, args);
	};
	return new Proxy(qmp, {
		get: (target, property) => {
			if (property === 'execute') return execute;
			const value: unknown = Reflect.get(target, property, target);
			return typeof value === 'function' ? (value.bind(target) as unknown) : value;
		},
	});
}

/** What QEMU has open of files that were removed. */
export function removedFiles(pid: number): {readonly name: string; readonly stat: fs.Stats}[] {
	const folder = `/proc/${pid}/fd`;
	return fs.readdirSync(folder).flatMap(fd => {
		const name = fs.readlinkSync(path.join(folder, fd));
		return name.endsWith('.scratch (deleted)') ? [{name, stat: fs.statSync(path.join(folder, fd))}] : [];
	});
}

/** The names that ever came to be in a folder, until the test is over. */
export function namesSeen(folder: string): () => string[] {
	const seen = new Set<string>();
	const watcher = fs.watch(folder, (event, name) => {
		// A `change` comes from what is written to a file that has lost its name, too.
		if (event === 'rename' && name !== null) seen.add(name);
	});
	onTestFinished(() => {
		watcher.close();
	});
	return () => [...seen];
}
