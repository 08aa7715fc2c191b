import {type SocketAddress, formatAddress} from '../config/address.ts';
import type {BlockGraph} from '../block/graph.ts';
import {readBlockGraph} from '../block/read-graph.ts';
import {QuiesceError, UsageError} from '../errors.ts';
import type {HostProcess} from '../host/processes.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpSchema} from '../qmp/introspection.ts';
import {openFree} from '../qmp/open-free.ts';
import type {Transcript} from '../qmp/transcript.ts';
import type {Machine} from '../repository/machine.ts';

/** How a VM is reached. */
export interface VmSockets {
	readonly qmp: SocketAddress;
	/** More monitors of the same VM, where the first one serves somebody else. */
	readonly otherMonitors?: readonly SocketAddress[] | undefined;
	readonly agent?: SocketAddress | undefined;
	/** What to call it where QEMU knows no name of its own. */
	readonly name?: string | undefined;
	/** What the VM there is known to be called: another one is refused. */
	readonly mustBe?: string | undefined;
}

/** The oldest QEMU whose answers this program has been shown to understand. */
const OLDEST = {major: 7, minor: 2};
const NO_UUID = '00000000-0000-0000-0000-000000000000';

/** What operations work on: a monitor that answers, and the VM behind it. */
interface OpenSession {
	readonly qmp: QmpConnection;
	readonly schema: QmpSchema;
	readonly name: string;
	/** Undefined where QEMU was given none. */
	readonly uuid: string | undefined;
	/** The host-wide lock of this VM. */
	readonly lockKey: string;
	/** As in `7.2.22`. */
	readonly version: string;
	/** Whether the guest's processors ran when the session was opened, and QEMU's word for why not. */
	readonly running: boolean;
	readonly status: string;
	/** The disks and the nodes as they are at this moment; over another connection to the same if this one has gone. */
	readGraph(over?: QmpConnection): Promise<BlockGraph>;
	/** Whoever opened the session closes it. */
	close(): Promise<void>;
}

/** A VM whose QEMU runs. */
export interface VmSession extends OpenSession {
	readonly power: 'on';
	/** By which it is reached again. */
	readonly sockets: VmSockets;
}

/** A VM that is off: a storage daemon of ours has its images open, and takes the same commands for nodes, bitmaps and jobs. */
export interface ImagesSession extends OpenSession {
	readonly power: 'off';
	readonly daemon: HostProcess | undefined;
	readonly machine: Machine;
	/** Once all is done and before `close`: has the bitmaps stored. What cannot be is told of, and costs a full. */
	settle(): Promise<void>;
}

export type Session = VmSession | ImagesSession;

/** The session with what QEMU says now of whether the VM runs. */
export async function lookAgain<Any extends Session>(vm: Any): Promise<Any> {
	if (vm.power === 'off') return vm;
	const {running, status} = await vm.qmp.execute('query-status');
	return {...vm, running, status};
}

/** Connects and asks who is there. */
export async function openVm(
	sockets: VmSockets,
	options: {signal?: AbortSignal | undefined; transcript?: Transcript | undefined} = {},
): Promise<VmSession> {
	const record = options.transcript?.of('qmp');
	const monitors = [sockets.qmp, ...(sockets.otherMonitors ?? [])] as const;
	const {qmp, address} = await openFree(monitors, {signal: options.signal, record});
	try {
		const {major, minor, micro} = qmp.version.qemu;
		if (major < OLDEST.major || (major === OLDEST.major && minor < OLDEST.minor)) {
			throw new QuiesceError('REFUSED', `this VM runs QEMU ${major}.${minor}.${micro}; 7.2 is the oldest supported`);
		}
		const [schema, {name}, {UUID}, {running, status}] = await Promise.all([
			QmpSchema.read(qmp),
			qmp.execute('query-name'),
			qmp.execute('query-uuid'),
			qmp.execute('query-status'),
		]);
		const uuid = UUID === NO_UUID ? undefined : UUID;
		const called = name ?? uuid ?? sockets.name;
		if (called === undefined) {
			throw new UsageError('this VM has neither a name nor a UUID of its own', {
				hint: 'Say what to call it with --name; or start QEMU with -name.',
			});
		}
		if (sockets.mustBe !== undefined && called !== sockets.mustBe) {
			throw new UsageError(
				`the VM at ${formatAddress(address)} is called ${called}, and not ${sockets.mustBe} as the config file has it`,
				{hint: 'Its points bear the name that QEMU was started with. Call it the same in the config file.'},
			);
		}
		const lockKey = `vm ${uuid ?? name ?? formatAddress(sockets.qmp)}`;
		return {
			power: 'on',
			...{qmp, schema, name: called, uuid, lockKey, version: `${major}.${minor}.${micro}`, running, status},
			// Whoever connects again takes the one that was free.
			sockets: {...sockets, qmp: address},
			readGraph: (over = qmp) => readBlockGraph(over, schema),
			close: () => qmp.close(),
		};
	} catch (error) {
		await qmp.close();
		throw error;
	}
}
