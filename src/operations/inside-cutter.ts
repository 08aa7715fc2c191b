import fs from 'node:fs/promises';
import path from 'node:path';
import {QuiesceError} from '../errors.ts';
import {requireMigratable} from '../migration/require-migratable.ts';
import {saveInside} from '../migration/save-inside.ts';
import {readSettings} from '../migration/settings.ts';
import type {SnapshotDisk} from '../snapshots/manifest.ts';
import {holdersOf, insideJob, vmStateIn} from './internal-snapshots.ts';
import type {SnapshotCutter} from './take-snapshot.ts';
import type {VmSession} from './vm-session.ts';
import {freeBytes, LEAST_BYTES} from './watch-space.ts';

interface InsideCutterTask {
	readonly vm: VmSession;
	readonly run: string;
	readonly snapshot: string;
	/** Those of which it is taken, and their nodes, in the same order. */
	readonly disks: readonly SnapshotDisk[];
	readonly nodes: readonly string[];
	/** The node that takes the memory. */
	readonly vmstate: string;
}

/** The node of a disk that has room for the memory. Throws `REFUSED`, with the reason, where it cannot be saved. Changes nothing. */
export async function prepareMemoryInside(
	{qmp, schema, version}: VmSession,
	{disks, nodes}: Pick<InsideCutterTask, 'disks' | 'nodes'>,
): Promise<string> {
	if (!schema.hasCommand('snapshot-save')) {
		throw new QuiesceError('REFUSED', `QEMU ${version} cannot save memory inside images over its monitor`, {
			hint: 'QEMU 6.0 can. Take the disks alone, or leave --internal out.',
		});
	}
	await requireMigratable(qmp);
	await readSettings(qmp);
	const {'base-memory': base, 'plugged-memory': plugged = 0} = await qmp.execute('query-memory-size-summary');
	const most = base + plugged + LEAST_BYTES;
	let found = 0;
	for (const [at, node] of nodes.entries()) {
		const room = await roomFor(disks[at]?.base.file ?? '');
		if (room >= most) return node;
		found = Math.max(found, room);
	}
	// A file system that fills would fail the guest's own writes from then on.
	throw new QuiesceError(
		'REFUSED',
		`the memory may take up to ${mib(most)} MiB inside an image, and there are ${mib(found)} MiB free beside the images`,
		{hint: 'Free some space, or leave --internal out and name a place with --folder.'},
	);
}

/** What is on a block device has the room that was made for it, which nobody can tell. */
async function roomFor(image: string): Promise<number> {
	return (await fs.stat(image)).isFile() ? freeBytes(path.dirname(image)) : Infinity;
}

/** Has QEMU cut the disks together with the memory, inside the images. */
export function insideCutter({vm, run, snapshot, nodes, vmstate}: InsideCutterTask): SnapshotCutter {
	return {
		wants: 'memory',
		cut: async () => {
			const at = new Date().toISOString();
			const pausedMs = await saveInside(
				vm.qmp,
				{id: insideJob(run), label: `the memory could not be saved as ${snapshot}`},
				{tag: snapshot, vmstate, devices: [...nodes]},
			);
			const vmState = vmStateIn(holdersOf(await vm.readGraph(), snapshot));
			if (!vmState) throw new QuiesceError('FAILED', `QEMU has saved no memory in ${snapshot}`);
			return {
				...{at, consistency: 'crash-consistent', freeze: null, group: null, vmState},
				standstill: {of: 'vm', seconds: pausedMs / 1000},
			};
		},
	};
}

function mib(bytes: number): number {
	return Math.round(bytes / 1024 / 1024);
}
