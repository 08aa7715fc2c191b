import {objectName} from '../block/names.ts';
import type {BitmapInfo} from '../block/nodes.ts';
import {QuiesceError} from '../errors.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpBitmap, QmpBlockNode, QmpTransactionAction} from '../qmp/schema.ts';

/** A disk that gets an overlay, whose file is there already. */
export interface OverlaidDisk {
	readonly name: string;
	/** The disk's format node, which becomes the base. */
	readonly node: string;
	readonly overlay: {readonly node: string; readonly file: string};
	/** Those of the base that are to be found on the overlay too: {@link carryBitmaps}. */
	readonly bitmaps: readonly Pick<BitmapInfo, 'name' | 'granularity' | 'persistent'>[];
}

/** Whose overlays they are while they are being made. */
export interface OverlayContext {
	readonly qmp: QmpConnection;
	readonly run: string;
}

/**
 * Opens the overlays in QEMU, each by itself and over nothing, so that the cut has only to put them in place. What is
 * written to them from the cut on is recorded. Undone by {@link removeOverlayNodes}, as long as there was no cut.
 */
export async function addOverlayNodes({qmp, run}: OverlayContext, disks: readonly OverlaidDisk[]): Promise<void> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	for (const {name, node, overlay, bitmaps} of disks) {
		const base = nodes.find(candidate => candidate['node-name'] === node);
		if (!base) throw new QuiesceError('FAILED', `the node ${node} of ${name} has gone`);
		await qmp
			.execute('blockdev-add', {
				'driver': 'qcow2',
				'node-name': overlay.node,
				// Else what is below would be opened a second time.
				'backing': null,
				'discard': 'unmap',
				...likeBase(base),
				'file': {driver: 'file', filename: overlay.file, discard: 'unmap', cache: cacheOf(base)},
			})
			.catch((error: unknown) => {
				if (!(error instanceof QmpCommandError)) throw error;
				throw new QuiesceError('REFUSED', `QEMU cannot open the overlay ${overlay.file}: ${error.message}`, {
					cause: error,
					hint: 'QEMU needs access to its folder, as it has to that of the image.',
				});
			});
		const [granularity] = bitmaps.map(bitmap => bitmap.granularity).sort((one, other) => one - other);
		if (granularity === undefined) continue;
		await qmp.execute('block-dirty-bitmap-add', {
			node: overlay.node,
			name: objectName(run, name, 'bitmap'),
			granularity,
		});
	}
}

/** What can be told of how a node was opened. */
function likeBase(base: QmpBlockNode): object {
	const {detect_zeroes: detectZeroes} = base;
	return {cache: cacheOf(base), ...(detectZeroes === 'off' ? {} : {'detect-zeroes': detectZeroes})};
}

/** Without `writeback`, which is the device's. */
function cacheOf({cache: {direct, 'no-flush': noFlush}}: QmpBlockNode): object {
	return {direct, 'no-flush': noFlush};
}

/**
 * The cut itself, for one `transaction`, which may have further actions: from then on the guest writes to the overlays. Each
 * disk is held still from its own action to the end of all, so they are of one instant. All are cut or none.
 */
export function overlayActions(disks: readonly OverlaidDisk[]): QmpTransactionAction[] {
	return disks.map(({node, overlay}) => ({type: 'blockdev-snapshot', data: {node, overlay: overlay.node}}));
}

/**
 * After the cut: gives each overlay the bitmaps of its base, so that they go on. Each is whole in itself, with what the base's
 * has, which records no more, and what was written since the cut: whoever takes images out of the chain need not mind.
 * Can be repeated by another run. Returns in words what could not be carried over: it costs a full copy.
 */
export async function carryBitmaps({qmp, run}: OverlayContext, disks: readonly OverlaidDisk[]): Promise<string[]> {
	const problems: string[] = [];
	for (const disk of disks) {
		const {name, node, overlay} = disk;
		const recording = objectName(run, name, 'bitmap');
		const there = await bitmapsOn(qmp, overlay.node);
		if (!there.some(bitmap => bitmap.name === recording)) continue;
		for (const bitmap of disk.bitmaps) {
			if (there.some(other => other.name === bitmap.name)) continue;
			try {
				await carry(qmp, bitmap, {node, overlay: overlay.node, recording});
			} catch (error) {
				if (!(error instanceof QmpCommandError)) throw error;
				problems.push(`${name}: the next backup has to be full: ${bitmap.name} could not be kept: ${error.message}`);
			}
		}
		await qmp.execute('block-dirty-bitmap-remove', {node: overlay.node, name: recording});
	}
	return problems;
}

async function carry(
	qmp: QmpConnection,
	{name, granularity, persistent}: OverlaidDisk['bitmaps'][number],
	{node, overlay, recording}: {readonly node: string; readonly overlay: string; readonly recording: string},
): Promise<void> {
	const actions: QmpTransactionAction[] = [
		// It records before the other one is merged into it: what is written between is in both.
		{type: 'block-dirty-bitmap-add', data: {node: overlay, name, granularity, persistent}},
		{
			type: 'block-dirty-bitmap-merge',
			data: {
				node: overlay,
				target: name,
				bitmaps: [
					{node, name},
					{node: overlay, name: recording},
				],
			},
		},
	];
	await qmp.execute('transaction', {actions});
}

/** Closes overlays that have not come into use. Does nothing where there is none, so it can be repeated. */
export async function removeOverlayNodes(qmp: QmpConnection, overlays: readonly string[]): Promise<void> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	const there = new Set(nodes.map(node => node['node-name']));
	for (const overlay of overlays) if (there.has(overlay)) await qmp.execute('blockdev-del', {'node-name': overlay});
}

async function bitmapsOn(qmp: QmpConnection, node: string): Promise<readonly QmpBitmap[]> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	return nodes.find(candidate => candidate['node-name'] === node)?.['dirty-bitmaps'] ?? [];
}
