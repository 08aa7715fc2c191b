import {lastValueFrom} from 'rxjs';
import {objectName} from '../block/names.ts';
import {runJobs} from '../jobs/run-jobs.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpSchema} from '../qmp/introspection.ts';
import {backupAction} from './backup-action.ts';
import type {Bitmap} from './cut.ts';

/**
 * A bitmap can lose bits, and nothing shows it afterwards: another program clears it, or the disk is made smaller and as
 * large again. So the last bit of each is set when it begins, whatever the guest does, and looked for before it is used:
 * either of these takes it away.
 *
 * The bit comes from a node of ours without storage, which has the disk's size and is written to there.
 */
export interface Mark {
	readonly node: string;
	readonly name: string;
}

export interface MarkedDisk {
	readonly name: string;
	/** Bytes. */
	readonly sizeBytes: number;
}

/** A QEMU, or a storage daemon. */
interface Monitor {
	readonly qmp: QmpConnection;
	readonly schema: QmpSchema;
}

const SECTOR_BYTES = 512;

/** Hands `use` a bitmap that has the disk's last bit alone; undefined where this QEMU cannot make one. Leaves nothing. */
export async function withMark<Value>(
	monitor: Monitor,
	run: string,
	disk: MarkedDisk,
	granularity: number,
	use: (mark: Mark | undefined) => Promise<Value>,
): Promise<Value> {
	const {qmp, schema} = monitor;
	const {name, sizeBytes} = disk;
	const mark: Mark = {node: objectName(run, name, 'mark'), name: 'mark'};
	await qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': mark.node, 'size': sizeBytes});
	try {
		await qmp.execute('block-dirty-bitmap-add', {...mark, granularity});
		if (schema.hasCommand('human-monitor-command')) await writeByHand(qmp, mark.node, sizeBytes);
		else await writeByJob(qmp, run, mark.node, disk);
		return await use((await countOf(qmp, mark)) > 0 ? mark : undefined);
	} finally {
		await qmp.execute('blockdev-del', {'node-name': mark.node});
	}
}

/** What it says is for people; whether it has written, the bitmap shows. */
async function writeByHand(qmp: QmpConnection, node: string, sizeBytes: number): Promise<void> {
	const at = Math.max(0, sizeBytes - SECTOR_BYTES);
	await qmp.execute('human-monitor-command', {'command-line': `qemu-io ${node} "write ${at} ${SECTOR_BYTES}"`});
}

/** A storage daemon has no other way to write: a copy of nothing into a node that is the last sector alone. */
async function writeByJob(qmp: QmpConnection, run: string, node: string, disk: MarkedDisk): Promise<void> {
	const {name, sizeBytes} = disk;
	const size = Math.min(SECTOR_BYTES, sizeBytes);
	const [end, sector] = [objectName(run, name, 'end'), objectName(run, name, 'sector')];
	await qmp.execute('blockdev-add', {
		'driver': 'raw',
		'node-name': end,
		'file': node,
		'offset': sizeBytes - size,
		size,
	});
	await qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': sector, size});
	const copy = {disk: name, source: sector, target: end, filter: objectName(run, name, 'job')};
	const actions = [backupAction(run, {...copy, compress: false, speedBytesPerSecond: 0})];
	const start = (): Promise<unknown> => qmp.execute('transaction', {actions});
	await lastValueFrom(runJobs(qmp, [{id: objectName(run, name), label: `the mark of ${name}`}], start), {
		defaultValue: undefined,
	});
	for (const above of [sector, end]) await qmp.execute('blockdev-del', {'node-name': above});
}

/** Whether a disk's bitmap still has the bit that it began with. */
export async function isMarked(
	monitor: Monitor,
	run: string,
	disk: MarkedDisk & {readonly node: string},
	{name, granularity}: Bitmap,
): Promise<boolean> {
	const {qmp} = monitor;
	return withMark(monitor, run, disk, granularity, async mark => {
		// It had one when it began.
		if (!mark) return false;
		const copy: Mark = {node: mark.node, name: 'copy'};
		await qmp.execute('block-dirty-bitmap-add', {...copy, granularity, disabled: true});
		const merge = (node: string, bitmap: string): Promise<unknown> =>
			qmp.execute('block-dirty-bitmap-merge', {node: copy.node, target: copy.name, bitmaps: [{node, name: bitmap}]});
		await merge(disk.node, name);
		const before = await countOf(qmp, copy);
		await merge(mark.node, mark.name);
		return (await countOf(qmp, copy)) === before;
	});
}

async function countOf(qmp: QmpConnection, {node, name}: Mark): Promise<number> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	const found = nodes.find(candidate => candidate['node-name'] === node)?.['dirty-bitmaps'] ?? [];
	return found.find(bitmap => bitmap.name === name)?.count ?? 0;
}
