import type {BlockGraph} from '../block/graph.ts';
import {redactSecrets} from '../host/command-line.ts';
import {type HostProcess, isQemu, processServing} from '../host/processes.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import type {Machine} from '../repository/machine.ts';
import type {Session} from './vm-session.ts';

export interface CapturedMachine {
	readonly machine: Machine;
	/** The VM's process, or that of the daemon which has its images, where this host can show it. */
	readonly qemu: HostProcess | undefined;
	/** The user that it runs as, where it is another than ours. */
	readonly qemuUid: number | undefined;
}

/** What is needed to start the VM again: QEMU's own answers, and its command line where this host can show it. */
export async function captureMachine(vm: Session, graph: BlockGraph): Promise<CapturedMachine> {
	const found = await qemuOf(vm);
	if (vm.power === 'off') return {machine: vm.machine, qemu: found, qemuUid: undefined};
	return {
		qemu: found,
		qemuUid: otherUser(found),
		machine: {
			format: 1,
			name: vm.name,
			uuid: vm.uuid ?? null,
			machineType: await machineType(vm.qmp),
			qemuVersion: vm.version,
			binary: found?.argv[0] ?? null,
			commandLine: found ? redactSecrets(found.argv.slice(1)) : null,
			disks: graph.disks.flatMap(({name, backend, medium}) =>
				medium === undefined
					? []
					: [
							{
								name,
								filename: medium.filename,
								format: medium.format,
								nodeNames: [medium.node, medium.rootNode, ...(backend === undefined ? [] : [backend])],
							},
						],
			),
			capturedAt: new Date().toISOString(),
		},
	};
}

/** The user that a VM's process runs as, where it is another than ours. */
export function otherUser(qemu: HostProcess | undefined): number | undefined {
	return qemu?.uid === process.getuid?.() ? undefined : qemu?.uid;
}

/** The VM's process, or that of the daemon which has its images, where this host can show it. */
export async function qemuOf(vm: Session): Promise<HostProcess | undefined> {
	if (vm.power === 'off') return vm.daemon;
	const {qmp} = vm.sockets;
	const server = 'unix' in qmp ? await processServing(qmp.unix) : undefined;
	// A proxy may stand before the monitor; its command line starts no VM.
	return server && isQemu(server) ? server : undefined;
}

/** With its version, such as `pc-q35-7.2`: an alias may mean another machine in the next QEMU. */
async function machineType(qmp: QmpConnection): Promise<string | null> {
	try {
		const type = await qmp.execute('qom-get', {path: '/machine', property: 'type'});
		return typeof type === 'string' ? type.replace(/-machine$/, '') : null;
	} catch (error) {
		if (error instanceof QmpCommandError) return null;
		throw error;
	}
}
