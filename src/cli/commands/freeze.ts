import type {Argv} from 'yargs';
import type {FreezeWindow} from '../../guest-agent/freeze-window.ts';
import {
	type CommandRequest,
	freezeAround,
	type FreezeRequest,
	freezeUntilThawed,
	type LastingFreeze,
} from '../../operations/freeze.ts';
import {type FrozenGroup, freezeGroupAround, freezeGroupUntilThawed} from '../../operations/freeze-group.ts';
import {namedFor} from '../../operations/together.ts';
import {agentGroupOf, type GroupOptions, groupOptions, oneOf} from '../group-options.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {countOf, formatSeconds, parseDuration} from '../quantities.ts';
import {type CommandContext, type GlobalOptions, runCommand} from '../run-command.ts';
import {printNote, printResult} from '../terminal.ts';
import {agentOf} from '../vm-options.ts';

interface Options extends GlobalOptions, GroupOptions {
	readonly 'freezeTimeout': string;
	readonly 'for': string;
	readonly 'mountpoint'?: readonly string[];
	readonly '--'?: readonly string[];
}

export function build(yargs: Argv): Argv {
	return groupOptions(yargs)
		.usage(
			"$0 freeze [VM…] [-- COMMAND…]\n\nFreezes a guest's file systems. With a COMMAND, runs it while the guest is frozen, always " +
				"thaws, and exits with the COMMAND's own status. Without one, leaves the guest frozen until " +
				'`quiesce thaw`, or until --for has passed. Several VMs, with --group, are frozen together.',
		)
		.option('for', {type: 'string', default: '60s', describe: 'The longest time the guest may stay frozen'})
		.option('freeze-timeout', {type: 'string', default: '60s', describe: 'How long the freeze and its hooks may take'})
		.option('mountpoint', {
			type: 'string',
			array: true,
			nargs: 1,
			describe: 'Freeze only what is mounted there (may be repeated)',
		})
		.group(['for', 'freeze-timeout', 'mountpoint'], 'Freeze:')
		.example('$0 freeze web1 -- lvcreate --snapshot --name web1-snap vg0/web1', '')
		.example('$0 freeze web1 db1 --group shop -- zfs snapshot -r tank@now', 'with both frozen')
		.example('$0 freeze --agent /run/web1.qga --for 30s', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const request: Omit<CommandRequest, 'agent'> = {
			...context,
			freezeTimeoutMs: parseDuration(options.freezeTimeout, '--freeze-timeout'),
			holdMs: parseDuration(options.for, '--for'),
			mountpoints: options.mountpoint,
			commandOutput: context.json ? 'stderr' : 'stdout',
		};
		const command = options['--'];
		if (options.group !== undefined) {
			const group = await agentGroupOf({...options, group: options.group});
			const frozen = {group: group.name, agents: group.members, request};
			return command === undefined ? freezeAll(frozen, context) : freezeAllWith(frozen, command, context);
		}
		const one = {...request, agent: await agentOf(oneOf(options))};
		return command === undefined ? freeze(one, context) : freezeWith(one, command, context);
	});
}

async function freeze(request: FreezeRequest, {json}: CommandContext): Promise<undefined> {
	const frozen = await freezeUntilThawed(request);
	if (json) printResult(toJson({messageType: 'summary', ...frozen}));
	else printResult(frozenLine(frozen));
}

async function freezeAll(group: FrozenGroup<CommandRequest>, {json}: CommandContext): Promise<undefined> {
	const all = await freezeGroupUntilThawed(group);
	if (json) {
		const guests = all.map(({of: vm, ...frozen}) => ({vm, ...frozen}));
		printResult(toJson({messageType: 'summary', group: group.group, guests}));
	} else {
		for (const frozen of all) printResult(`${printable(frozen.of)}: ${frozenLine(frozen)}`);
	}
}

function frozenLine({fileSystems, until}: LastingFreeze): string {
	return `frozen: ${countOf(fileSystems, 'file system')}, until \`quiesce thaw\` or ${until}`;
}

async function freezeWith(
	request: CommandRequest,
	command: readonly string[],
	{json, quiet}: CommandContext,
): Promise<number> {
	const {exitStatus, window} = await freezeAround(request, command);
	if (json) printResult(toJson({messageType: 'summary', exitStatus, ...factsOf(window)}));
	if (!quiet && !json) printNote(windowLine(window));
	tellDoubt(window, request);
	return exitStatus;
}

async function freezeAllWith(
	group: FrozenGroup<CommandRequest>,
	command: readonly string[],
	{json, quiet}: CommandContext,
): Promise<number> {
	const {exitStatus, windows} = await freezeGroupAround(group, command);
	if (json) {
		const guests = windows.map(({of: vm, ...window}) => ({vm, ...factsOf(window)}));
		printResult(toJson({messageType: 'summary', exitStatus, group: group.group, guests}));
	}
	for (const {of, ...window} of windows) {
		if (!quiet && !json) printNote(`${printable(of)}: ${windowLine(window)}`);
		tellDoubt(window, namedFor(of, group.request));
	}
	return exitStatus;
}

function factsOf({frozen, thawed, freezeMs, heldMs, thawMs, doubt}: FreezeWindow): object {
	const times = {freezeSeconds: freezeMs / 1000, heldSeconds: heldMs / 1000, thawSeconds: thawMs / 1000};
	return {fileSystems: frozen, thawed, ...times, doubt};
}

function windowLine({frozen, freezeMs, heldMs, thawMs}: FreezeWindow): string {
	return (
		`thawed: ${countOf(frozen, 'file system')} had been frozen (freeze ${formatSeconds(freezeMs / 1000)}, ` +
		`held ${formatSeconds(heldMs / 1000)}, thaw ${formatSeconds(thawMs / 1000)})`
	);
}

function tellDoubt({doubt}: FreezeWindow, {tell}: Pick<FreezeRequest, 'tell'>): void {
	if (doubt !== undefined) tell(`the freeze did not hold: ${printable(doubt)}`);
}
