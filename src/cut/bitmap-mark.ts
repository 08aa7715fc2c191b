import {objectName} from '../block/names.ts';
import type {QmpConnection} from '../qmp/connection.ts';
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

const SECTOR_BYTES = 512;

/** Hands `use` a bitmap that has the disk's last bit alone; undefined where this QEMU cannot make one. Leaves nothing. */
export async function withMark<Value>(
	qmp: QmpConnection,
	run: string,
	{name: disk, sizeBytes}: MarkedDisk,
	granularity: number,
	use: (mark: Mark | undefined) => Promise<Value>,
): Promise<Value> {
	const mark: Mark = {node: objectName(run, disk, 'mark'), name: 'mark'};
	await qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': mark.node, 'size': sizeBytes});
	try {
		await qmp.execute('block-dirty-bitmap-add', {...mark, granularity});
		const at = Math.max(0, sizeBytes - SECTOR_BYTES);
		// The one way to write to a node from the monitor. What it says is for people; whether it has, the bitmap shows.
		await qmp.execute('human-monitor-command', {'command-line': `qemu-io ${mark.node} "write ${at} ${SECTOR_BYTES}"`});
		return await use((await countOf(qmp, mark)) > 0 ? mark : undefined);
	} finally {
		await qmp.execute('blockdev-del', {'node-name': mark.node});
	}
}

/** Whether a disk's bitmap still has the bit that it began with. */
export async function isMarked(
	qmp: QmpConnection,
	run: string,
	disk: MarkedDisk & {readonly node: string},
	{name, granularity}: Bitmap,
): Promise<boolean> {
	return withMark(qmp, run, disk, granularity, async mark => {
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
