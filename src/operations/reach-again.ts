import {UnreachableError} from '../qmp/errors.ts';
import {QmpConnection} from '../qmp/connection.ts';
import type {VmSockets} from './vm-session.ts';

/**
 * Does `work` on a monitor that may have gone: on `qmp` while it stands, else on a new connection, which is closed
 * afterwards. Returns undefined where QEMU has ended, and all that was inside with it.
 */
export async function reachAgain<Value>(
	qmp: QmpConnection,
	sockets: VmSockets,
	work: (qmp: QmpConnection) => Promise<Value>,
): Promise<Value | undefined> {
	if (!qmp.isClosed) return work(qmp);
	let again: QmpConnection;
	try {
		again = await QmpConnection.open(sockets.qmp);
	} catch (error) {
		if (error instanceof UnreachableError && error.vmHasEnded) return undefined;
		throw error;
	}
	try {
		return await work(again);
	} finally {
		await again.close();
	}
}
