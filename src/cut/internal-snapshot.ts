import type {QmpTransactionAction} from '../qmp/schema.ts';

/**
 * The cut for images that keep it in themselves, for one `transaction`: each disk is held still from its own action to the
 * end of all. `nodes` are the disks' own. All are cut or none, but where QEMU is killed in the middle.
 */
export function internalSnapshotActions(nodes: readonly string[], name: string): QmpTransactionAction[] {
	return nodes.map(device => ({type: 'blockdev-snapshot-internal-sync', data: {device, name}}));
}
