import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpBlockdevOptions} from '../qmp/schema.ts';

/** A node that passes everything on to the one below, which can be exchanged. */
export function gateNode(gate: string, below: string): QmpBlockdevOptions & {'node-name': string} {
	// What the guest discards goes through only where it is said so, by each node on the way.
	return {'driver': 'raw', 'node-name': gate, 'discard': 'unmap', 'file': below};
}

/**
 * Exchanges what is below several gates, at one instant: QEMU holds up the requests of each from when it comes to it until
 * all are done, so no disk can hold a write that came after one which another disk lacks (blockdev.c qmp_blockdev_reopen,
 * 6.1). All are moved or none.
 */
export async function moveGates(
	qmp: QmpConnection,
	gates: readonly {readonly gate: string; readonly to: string}[],
): Promise<void> {
	// An empty list would abort QEMU (block.c bdrv_reopen_multiple, to 11.1).
	if (gates.length === 0) return;
	await qmp.execute('blockdev-reopen', {options: gates.map(({gate, to}) => gateNode(gate, to))});
}
