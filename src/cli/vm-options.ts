import type {Argv} from 'yargs';
import {parseAddress, type SocketAddress} from '../config/address.ts';
import type {Config} from '../config/config-schema.ts';
import {UsageError} from '../errors.ts';
import type {VmSockets} from '../operations/vm-session.ts';

export interface VmOptions {
	readonly vm?: string | undefined;
	readonly qmp?: string | undefined;
	readonly agent?: string | undefined;
	readonly name?: string | undefined;
	/** The config file, if there is one. */
	readonly config?: Config | undefined;
}

export function vmOptions<Options>(yargs: Argv<Options>): Argv<Options & VmOptions> {
	return yargs
		.positional('vm', {
			type: 'string',
			describe: 'A VM of the config file or of this host: its name, UUID or process id',
		})
		.option('qmp', {
			type: 'string',
			describe: "The VM's QMP monitor, instead of VM: unix:/path or tcp:host:port",
			group: 'VM:',
		})
		.option('agent', {type: 'string', describe: "The guest agent's socket, as for --qmp", group: 'VM:'})
		.option('name', {type: 'string', describe: 'What to call a VM that has no name of its own', group: 'VM:'});
}

/** The agent's socket alone, for what needs no monitor. */
export async function agentOf(options: VmOptions): Promise<SocketAddress> {
	const {vm, agent: given, config} = options;
	if (vm === undefined && given !== undefined) return parseAddress(given);
	const known = given ?? (vm === undefined ? undefined : config?.vms[vm]?.agent);
	if (known !== undefined) return parseAddress(known);
	const {agent} = await socketsOf(options);
	if (agent) return agent;
	throw new UsageError('no guest agent is known for this VM', {
		hint: 'Name its socket with --agent. It is that of a virtserialport called org.qemu.guest_agent.0.',
	});
}

/** The sockets that the options name, or those of the VM of this host that they name. */
export async function socketsOf(options: VmOptions): Promise<VmSockets> {
	const [first, ...others] = await allSocketsOf(options);
	return {...first, otherMonitors: others.map(({qmp}) => qmp)};
}

/** The same, with each monitor of the VM, for what has to find one that is free. */
export async function allSocketsOf({
	vm,
	qmp,
	agent,
	name,
	config,
}: VmOptions): Promise<readonly [VmSockets, ...VmSockets[]]> {
	if (qmp !== undefined) {
		if (vm !== undefined) throw new UsageError('give either VM or --qmp, not both');
		return [{qmp: parseAddress(qmp), agent: agent === undefined ? undefined : parseAddress(agent), name}];
	}
	const known = vm === undefined ? undefined : config?.vms[vm];
	const agentAddress = agent ?? known?.agent;
	if (known?.qmp !== undefined) {
		const address = agentAddress === undefined ? undefined : parseAddress(agentAddress);
		return [{qmp: parseAddress(known.qmp), agent: address, name: name ?? vm, mustBe: vm}];
	}
	if (vm === undefined) {
		throw new UsageError('no VM is named', {
			hint: 'Name one of those that `quiesce discover` lists, or a monitor with --qmp.',
		});
	}
	const {findVm} = await import('../operations/discover.ts');
	const found = await findVm(vm);
	const [monitor, ...others] = found.monitors;
	if (!monitor) {
		throw new UsageError(`VM ${vm} has no QMP monitor on a socket`, {
			hint: 'Start it with -qmp unix:/path,server=on,wait=off.',
		});
	}
	const rest = {agent: agentAddress === undefined ? found.agent : parseAddress(agentAddress), name: name ?? found.name};
	return [{qmp: monitor, ...rest}, ...others.map(other => ({qmp: other, ...rest}))];
}
