import path from 'node:path';
import {canonicalAddress, formatAddress, type SocketAddress} from '../config/address.ts';
import {UsageError} from '../errors.ts';
import {commandLineFacts, type CommandLineFacts, type Endpoint} from '../host/command-line-facts.ts';
import {parseCommandLine} from '../host/command-line.ts';
import {type HostProcess, listQemuProcesses, reachableSocket} from '../host/processes.ts';
import {holdersOf, pathOfDescriptor} from '../host/unix-sockets.ts';
import {readUserNames} from '../host/users.ts';
import {isLibvirts, listWellKnownSockets, type WellKnownSocket} from '../host/well-known-sockets.ts';

export interface DiscoveredVm {
	/** `stale`: only a socket is left of it, which nothing listens on. */
	readonly state: 'running' | 'stale';
	/** Undefined where the process may not be seen, and for what is stale. */
	readonly pid: number | undefined;
	readonly name: string | undefined;
	readonly uuid: string | undefined;
	readonly uid: number | undefined;
	/** Undefined for a user that is not of this host's own. */
	readonly user: string | undefined;
	/** QMP monitors that may be connected to; another client may hold them all the same. */
	readonly monitors: readonly SocketAddress[];
	readonly agent: SocketAddress | undefined;
	readonly binary: string | undefined;
	/** For people: why a socket is not among these, and what else is wrong. */
	readonly problems: readonly string[];
}

export interface DiscoverOptions {
	/** Where the well-known folders are; `/` but for tests. */
	readonly root?: string;
	readonly proc?: string;
}

interface Reached {
	readonly address?: SocketAddress;
	readonly problem?: string;
}

/**
 * The VMs of this host, as far as this user may see them. Connects to nothing: QEMU serves one client a socket, and
 * looking must not disturb it.
 */
export async function discover({root = '/', proc = '/proc'}: DiscoverOptions = {}): Promise<DiscoveredVm[]> {
	const users = await readUserNames();
	const processes = await listQemuProcesses(proc);
	const running = await Promise.all(processes.map(process => describe(process, users, proc)));
	const claimed = new Set(running.flatMap(({claims}) => claims));
	return mergeWellKnown(
		await withoutTaken(
			running.map(({vm}) => vm),
			proc,
		),
		await unclaimed(await listWellKnownSockets(root), claimed),
		proc,
	);
}

/** One VM and the canonical addresses of all sockets it has to do with. */
async function describe(
	process: HostProcess,
	users: ReadonlyMap<number, string>,
	proc: string,
): Promise<{vm: DiscoveredVm; claims: string[]}> {
	const facts = commandLineFacts(parseCommandLine(process.argv.slice(1)));
	const monitors = await Promise.all(
		facts.monitors.map(({endpoint, chardev}) =>
			chardev === 'charmonitor'
				? libvirtMonitor(process.pid, endpoint, proc)
				: reach('monitor', endpoint, process, proc),
		),
	);
	const agent = facts.agent && (await reach('guest agent socket', facts.agent, process, proc));
	return {
		vm: {
			state: 'running',
			pid: process.pid,
			name: facts.name,
			uuid: facts.uuid,
			uid: process.uid,
			user: users.get(process.uid),
			monitors: monitors.flatMap(({address}) => address ?? []),
			agent: agent?.address,
			binary: process.exe ?? process.argv[0],
			problems: [
				...[...monitors, ...(agent ? [agent] : [])].flatMap(({problem}) => problem ?? []),
				...generalProblems(facts),
			],
		},
		claims: await claimsOf(facts, process, proc),
	};
}

function generalProblems({monitors, configFiles}: CommandLineFacts): string[] {
	return [
		...(monitors.length === 0 ? ['it has no QMP monitor: start it with -qmp unix:/path,server=on,wait=off'] : []),
		...configFiles.map(file => `options in its -readconfig file ${file} are not known`),
	];
}

async function claimsOf({unixSockets}: CommandLineFacts, process: HostProcess, proc: string): Promise<string[]> {
	const reached = await Promise.all(unixSockets.map(unix => reachableSocket(process, unix, proc)));
	return Promise.all(reached.flatMap(unix => (unix === undefined ? [] : [canonicalAddress({unix})])));
}

/** libvirt opens its monitor itself and passes the descriptor. */
async function libvirtMonitor(pid: number, endpoint: Endpoint, proc: string): Promise<Reached> {
	const unix = 'fd' in endpoint ? await pathOfDescriptor(pid, endpoint.fd, proc) : undefined;
	const where = unix ?? ('unix' in endpoint ? endpoint.unix : 'charmonitor');
	return {problem: managedByLibvirt('monitor', where)};
}

function managedByLibvirt(what: string, where: string): string {
	const hint = what === 'monitor' ? ': give the VM a second one with -qmp' : '';
	return `${what} ${where} is managed by libvirt and not for others${hint}`;
}

async function reach(what: string, endpoint: Endpoint, process: HostProcess, proc: string): Promise<Reached> {
	if ('unusable' in endpoint) return {problem: `${what} cannot be used: ${endpoint.unusable}`};
	if ('host' in endpoint) return {address: endpoint};
	const unix = 'fd' in endpoint ? await pathOfDescriptor(process.pid, endpoint.fd, proc) : endpoint.unix;
	if (unix === undefined) return {problem: `${what} cannot be used: its socket is an inherited descriptor`};
	if (isLibvirts(unix)) return {problem: managedByLibvirt(what, unix)};
	const reachable = await reachableSocket(process, unix, proc);
	if (reachable === undefined) return {problem: `${what} ${unix} is not there, or not for this user to see`};
	return {address: {unix: reachable}};
}

/** A second VM that is started with the same socket path takes it from the first without a word. */
async function withoutTaken(vms: readonly DiscoveredVm[], proc: string): Promise<DiscoveredVm[]> {
	const paths = vms.flatMap(({monitors, agent}) =>
		[...monitors, agent].flatMap(address => (address && 'unix' in address ? address.unix : [])),
	);
	const holders = await holdersOf(paths, proc);
	return vms.map(vm => {
		const takers = (address: SocketAddress): readonly number[] => {
			const pids = ('unix' in address ? holders.get(address.unix) : undefined) ?? [];
			return vm.pid !== undefined && pids.includes(vm.pid) ? [] : pids;
		};
		const problemOf = (what: string, address: SocketAddress): string[] =>
			takers(address).length === 0
				? []
				: [`${what} ${formatAddress(address)} was taken over by process ${takers(address).join(', ')}`];
		return {
			...vm,
			monitors: vm.monitors.filter(monitor => takers(monitor).length === 0),
			agent: vm.agent && takers(vm.agent).length === 0 ? vm.agent : undefined,
			problems: [
				...vm.problems,
				...vm.monitors.flatMap(monitor => problemOf('monitor', monitor)),
				...(vm.agent ? problemOf('guest agent socket', vm.agent) : []),
			],
		};
	});
}

async function unclaimed(
	sockets: readonly WellKnownSocket[],
	claimed: ReadonlySet<string>,
): Promise<WellKnownSocket[]> {
	const names = await Promise.all(sockets.map(({path: unix}) => canonicalAddress({unix})));
	return sockets.filter((_, index) => !claimed.has(names[index] ?? ''));
}

/** Sockets that no visible command line speaks of: of a QEMU that holds them, of one that may not be seen, or of none. */
async function mergeWellKnown(
	running: readonly DiscoveredVm[],
	sockets: readonly WellKnownSocket[],
	proc: string,
): Promise<DiscoveredVm[]> {
	const paths = sockets.map(socket => socket.path);
	const holders = await holdersOf(paths, proc);
	const vms = new Map<unknown, DiscoveredVm>(running.map(vm => [vm.pid, vm]));
	for (const socket of sockets) {
		const pids = holders.get(socket.path);
		const pid = pids?.find(candidate => vms.has(candidate)) ?? pids?.[0];
		const key = pid ?? `${pids ? 'running' : 'stale'} ${path.dirname(socket.path)}/${socket.vm}`;
		const vm = vms.get(key) ?? unseen(socket.vm, pid, pids ? 'running' : 'stale');
		vms.set(key, withSocket(vm, socket));
	}
	return [...vms.values()];
}

function unseen(name: string, pid: number | undefined, state: DiscoveredVm['state']): DiscoveredVm {
	const problems = state === 'stale' ? [] : ['its process cannot be seen by this user, or is no QEMU'];
	return {
		state,
		pid,
		name,
		uuid: undefined,
		uid: undefined,
		user: undefined,
		monitors: [],
		agent: undefined,
		binary: undefined,
		problems,
	};
}

function withSocket(vm: DiscoveredVm, {path: unix, role}: WellKnownSocket): DiscoveredVm {
	const what = role === 'monitor' ? 'monitor' : 'guest agent socket';
	if (vm.state === 'stale') {
		return {...vm, problems: [...vm.problems, `${what} ${unix} is stale: no process listens on it`]};
	}
	if (isLibvirts(unix)) return {...vm, problems: [...vm.problems, managedByLibvirt(what, unix)]};
	if (role === 'monitor') return {...vm, monitors: [...vm.monitors, {unix}]};
	return {...vm, agent: vm.agent ?? {unix}};
}

/** The running VM of that name, UUID, process id or (on Proxmox) number. Throws {@link UsageError} on none or several. */
export async function findVm(wanted: string, options?: DiscoverOptions): Promise<DiscoveredVm> {
	return selectVm(await discover(options), wanted);
}

/** As {@link findVm}, among those that were found. */
export function selectVm(vms: readonly DiscoveredVm[], wanted: string): DiscoveredVm {
	const matching = vms.filter(vm => isCalled(vm, wanted));
	const running = matching.filter(vm => vm.state === 'running');
	const [vm] = running;
	if (vm && running.length === 1) return vm;
	if (vm) {
		throw new UsageError(`'${wanted}' may mean ${running.map(describeVm).join(' or ')}`, {
			hint: 'Name it by its UUID or its process id, or give its monitor with --qmp.',
		});
	}
	const others = vms.filter(other => other.state === 'running').map(describeVm);
	const stale = matching.flatMap(({problems}) => problems).map(problem => `; ${problem}`);
	throw new UsageError(`no running VM is called '${wanted}'${stale.join('')}`, {
		hint:
			others.length === 0
				? 'No running QEMU was found on this host; give a monitor with --qmp.'
				: `There is ${others.join(', ')}.`,
	});
}

function isCalled({name, uuid, pid, monitors}: DiscoveredVm, wanted: string): boolean {
	return (
		name === wanted ||
		uuid === wanted.toLowerCase() ||
		String(pid) === wanted ||
		monitors.some(monitor => 'unix' in monitor && monitor.unix.endsWith(`/qemu-server/${wanted}.qmp`))
	);
}

function describeVm({name, uuid, pid, monitors}: DiscoveredVm): string {
	const monitor = monitors[0] && formatAddress(monitors[0]);
	const details = [pid === undefined ? undefined : `pid ${pid}`, uuid && `uuid ${uuid}`, monitor];
	return `${name ?? 'a VM without a name'} (${details.filter(detail => detail !== undefined).join(', ')})`;
}
