import {setTimeout as delay} from 'node:timers/promises';
import {UnreachableError} from '../qmp/errors.ts';
import {QmpConnection} from '../qmp/connection.ts';
import type {Session, VmSockets} from './vm-session.ts';

const ATTEMPTS = 5;
const AGAIN_MS = 200;

/**
 * Does `work` on a monitor that may have gone: on the session's while it stands, else on a new connection, which is
 * closed afterwards. Returns undefined where QEMU, or a daemon of ours, has ended, and all that was inside with it.
 */
export async function reachAgain<Value>(
	vm: Session,
	work: (qmp: QmpConnection) => Promise<Value>,
): Promise<Value | undefined> {
	if (!vm.qmp.isClosed) return work(vm.qmp);
	const again = vm.power === 'on' ? await openAgain(vm.sockets) : undefined;
	if (!again) return undefined;
	try {
		return await work(again);
	} finally {
		await again.close();
	}
}

/** Undefined where QEMU has ended. One that is about to still lets clients in, to drop them. */
async function openAgain({qmp}: VmSockets): Promise<QmpConnection | undefined> {
	for (let attempt = 1; ; attempt++) {
		try {
			return await QmpConnection.open(qmp);
		} catch (error) {
			if (!(error instanceof UnreachableError)) throw error;
			if (error.vmHasEnded) return undefined;
			if (attempt === ATTEMPTS) throw error;
		}
		await delay(AGAIN_MS);
	}
}
