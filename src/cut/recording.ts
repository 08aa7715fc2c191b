import type {QmpTransactionAction} from '../qmp/schema.ts';
import type {CutDisk} from './cut.ts';

/**
 * Adds the bitmaps that record from now on. Before the cut or in its transaction: a write that comes between is
 * in the point and counts as changed, which costs a cluster; a write that no bitmap has seen would be lost.
 */
export function beginRecording(disks: readonly Omit<CutDisk, 'target'>[]): QmpTransactionAction[] {
	return disks.flatMap(({node, recording}) =>
		recording ? [{type: 'block-dirty-bitmap-add', data: {node, ...recording}}] : [],
	);
}
