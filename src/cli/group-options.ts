import type {Argv} from 'yargs';
import {formatAddress, parseAddress, type SocketAddress} from '../config/address.ts';
import {UsageError} from '../errors.ts';
import type {VmSockets} from '../operations/vm-session.ts';
import {agentOf, socketsOf, type VmOptions, vmOptions} from './vm-options.ts';

/** Those of a command that takes one VM, or several as a group. */
export interface GroupOptions extends Omit<VmOptions, 'vm'> {
	readonly vm?: readonly string[] | undefined;
	readonly group?: string | undefined;
}

/** With the name of a group. */
interface AsGroup extends GroupOptions {
	readonly group: string;
}

/** Several VMs, by what the operator calls them, in the order in which they are begun. */
export interface NamedGroup<Member> {
	readonly name: string;
	readonly members: ReadonlyMap<string, Member>;
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const BY_SOCKETS = /^(?<name>[^=,]+)=(?<qmp>(?:unix:|tcp:|\.{0,2}\/)[^,]+)(?:,agent=(?<agent>[^,]+))?$/;

export function groupOptions<Options>(yargs: Argv<Options>): Argv<Options & GroupOptions> {
	return vmOptions(yargs)
		.positional('vm', {
			type: 'string',
			array: true,
			describe: 'A VM of this host: its name, UUID or process id; several with --group, also as NAME=QMP[,agent=AGENT]',
		})
		.option('group', {
			type: 'string',
			nargs: 1,
			describe: 'Take several VMs as the group of this name: all frozen, cut and thawed together, or none',
			group: 'VM:',
		}) as Argv<Options & GroupOptions>;
}

/** What the operator calls the VMs of the group. */
export function namesInGroup(options: AsGroup): string[] {
	return wordsOf(options).map(word => BY_SOCKETS.exec(word)?.groups?.['name'] ?? word);
}

export async function groupOf(options: AsGroup): Promise<NamedGroup<VmSockets>> {
	const {config} = options;
	return readGroup(options, (vm, bySockets) =>
		bySockets ? Promise.resolve({...bySockets, name: vm}) : socketsOf({vm, config}),
	);
}

/** As {@link groupOf}, for what needs the agents' sockets alone. */
export async function agentGroupOf(options: AsGroup): Promise<NamedGroup<SocketAddress>> {
	return readGroup(options, async (vm, bySockets) => {
		if (!bySockets) return agentOf({vm, config: options.config});
		if (bySockets.agent) return bySockets.agent;
		throw new UsageError(`no guest agent is known for ${vm}`, {hint: `Name its socket: ${vm}=QMP,agent=AGENT.`});
	});
}

/** The options of a command that takes one VM. */
export function oneOf({vm: vms = [], ...options}: GroupOptions): VmOptions {
	if (vms.length > 1) {
		throw new UsageError('several VMs are named', {hint: 'Give the group a name with --group, or name one VM.'});
	}
	return {...options, vm: vms[0]};
}

async function readGroup<Member extends VmSockets | SocketAddress>(
	options: AsGroup,
	find: (vm: string, bySockets?: VmSockets) => Promise<Member>,
): Promise<NamedGroup<Member>> {
	const {group, qmp, agent, name} = options;
	const vms = wordsOf(options);
	if (!NAME.test(group)) {
		throw new UsageError(`--group: '${group}' is no name for a group`, {
			hint: 'Use letters, digits, dots, dashes and underscores; at most 64.',
		});
	}
	if (qmp !== undefined || agent !== undefined || name !== undefined) {
		throw new UsageError('--qmp, --agent and --name are for one VM', {
			hint: 'In a group write NAME=QMP,agent=AGENT, such as web=unix:/run/web.qmp,agent=unix:/run/web.qga.',
		});
	}
	if (vms.length < 2)
		throw new UsageError('a group has at least two VMs', {
			hint: 'Name them before --group, or in the config file.',
		});
	const found = new Map<string, Member>();
	for (const word of vms) {
		const {name: vm = word, qmp: address, agent: agentAddress} = BY_SOCKETS.exec(word)?.groups ?? {};
		if (found.has(vm)) throw new UsageError(`${vm} is named twice`);
		const bySockets = address === undefined ? undefined : {qmp: parseAddress(address), agent: parsed(agentAddress)};
		found.set(vm, await find(vm, bySockets));
	}
	// Two groups that have some VMs in common begin with the same one of these.
	const ordered = [...found].sort(([, one], [, other]) => (keyOf(one) < keyOf(other) ? -1 : 1));
	return {name: group, members: new Map(ordered)};
}

/** Those that are named, else those of the config file. */
function wordsOf({vm: words = [], group, config}: AsGroup): readonly string[] {
	return words.length > 0 ? words : (config?.groups[group] ?? []);
}

function parsed(address: string | undefined): SocketAddress | undefined {
	return address === undefined ? undefined : parseAddress(address);
}

function keyOf(member: VmSockets | SocketAddress): string {
	return formatAddress('qmp' in member ? member.qmp : member);
}
