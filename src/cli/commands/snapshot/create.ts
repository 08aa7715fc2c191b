import type {Argv} from 'yargs';
import {UsageError} from '../../../errors.ts';
import {MEMORY_MODES, type MemoryMode} from '../../../migration/save-memory.ts';
import {createSnapshot} from '../../../operations/snapshot-create.ts';
import {createSnapshotGroup, type GroupSnapshotMessage} from '../../../operations/snapshot-group.ts';
import type {AnySnapshotRequest, SnapshotRequest} from '../../../operations/snapshot-messages.ts';
import {type CutOptions, cutOptions, quiesceWishes} from '../../cut-options.ts';
import {groupDisks} from '../../group-disks.ts';
import {groupOf, type GroupOptions, groupOptions} from '../../group-options.ts';
import {groupPrinter} from '../../group-printer.ts';
import {printAndLog} from '../../printer.ts';
import {parseDuration} from '../../quantities.ts';
import {type CommandContext, type GlobalOptions, runCommand} from '../../run-command.ts';
import {printWords, snapshotPrinter} from '../../snapshot-printer.ts';
import {type OffOptions, offOptions, requireOn, vmOf} from '../../off-options.ts';

interface Options extends GlobalOptions, GroupOptions, CutOptions, OffOptions {
	readonly internal: boolean;
	readonly overlayTemplate?: string;
	readonly folder?: string;
	readonly memory?: MemoryMode;
	readonly liveFor: string;
	readonly dryRun: boolean;
}

export function build(yargs: Argv): Argv {
	return cutOptions(offOptions(groupOptions(yargs)))
		.usage(
			'$0 snapshot create VM [NAME]\n$0 snapshot create VM… --group GROUP [--name NAME]\n\nFrom one instant on lets the guest write to new images over those that it has, which ' +
				'then hold what its disks held: all at once, with the file systems frozen. Prints the name of the snapshot, and ' +
				'says which image each disk lies on from then on. Several VMs, with --group, are cut together.',
		)
		.positional('vm', {
			type: 'string',
			array: true,
			describe:
				'A VM of this host: its name, UUID or process id; and what to call the snapshot, else the time. With --group ' +
				'several VMs, also as NAME=QMP[,agent=AGENT]',
		})
		.option('name', {
			type: 'string',
			describe: 'What to call a VM that has no name of its own; with --group, what to call the snapshots',
			group: 'VM:',
		})
		.option('internal', {
			type: 'boolean',
			default: false,
			describe: 'Keep it in the images themselves, which have to be qcow2',
		})
		.option('overlay-template', {
			type: 'string',
			describe:
				'What the new images are called, with {stem}, {name}, {disk} and {vm}; default {stem}.{name}.qcow2, beside each image',
		})
		.option('folder', {
			type: 'string',
			describe: 'Where it is noted that there is the snapshot, instead of beside the image of the first disk',
		})
		.option('memory', {
			choices: MEMORY_MODES,
			describe:
				'Save the memory and the devices too, at the same instant: while the guest goes on (--memory), while it is ' +
				'paused (--memory=stop), or behind its back (--memory=background). With --internal it is always paused',
		})
		.option('live-for', {
			type: 'string',
			default: '2m',
			describe: 'With --memory, pause the guest after so long, for what is left of its memory',
		})
		.option('dry-run', {type: 'boolean', default: false, describe: 'Say what would be done, and do nothing'})
		.group(
			[
				'quiesce',
				'disk',
				'exclude',
				'internal',
				'memory',
				'live-for',
				'overlay-template',
				'folder',
				'freeze-timeout',
				'dry-run',
			],
			'Snapshot:',
		)
		.example('$0 snapshot create web1 before-upgrade', 'all disks of web1, frozen if its agent answers')
		.example(
			'$0 snapshot create web1 running --memory',
			'with its memory: `quiesce revert` brings back the running guest',
		)
		.example('$0 snapshot create web1 db1 --group shop', 'both frozen, then cut, then thawed; or neither')
		.example('$0 snapshot create --qmp /run/web1.qmp before-upgrade --disk vda', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		if (options.internal && options.overlayTemplate !== undefined) {
			throw new UsageError('--internal makes no overlays, so it goes without --overlay-template');
		}
		await (options.group === undefined ? takeOne(options, context) : takeGroup(options, options.group, context));
		return undefined;
	});
}

async function takeOne(options: Options, context: CommandContext): Promise<void> {
	const {vm: [first, second, ...more] = [], ...rest} = options;
	if (more.length > 0) {
		throw new UsageError(`${more.join(' ')}: one VM and one name are enough`, {
			hint: 'For several VMs give the group a name with --group.',
		});
	}
	const {vm, name} = namesOf({vm: first, qmp: options.qmp, snapshot: second});
	const request: AnySnapshotRequest = {
		...requestOf(options, context),
		sockets: await vmOf({...rest, vm}),
		snapshot: name,
		only: options.disk,
		exclude: options.exclude,
	};
	await printAndLog(createSnapshot(request), snapshotPrinter(context), context);
}

async function takeGroup(options: Options, called: string, context: CommandContext): Promise<void> {
	const {name: snapshot, ...rest} = options;
	requireOn(options);
	const group = await groupOf({...rest, group: called});
	const disks = groupDisks([...group.members.keys()], options);
	const requests = Array.from(
		group.members,
		([vm, sockets]) => [vm, {...requestOf(options, context), sockets, ...disks.get(vm)}] as const,
	);
	const message$ = createSnapshotGroup({
		...{group: group.name, snapshot, members: new Map(requests)},
		signal: context.signal,
	});
	await printAndLog<GroupSnapshotMessage>(message$, groupPrinter(context, printWords), context);
}

function requestOf(options: Options, context: CommandContext): Omit<SnapshotRequest, 'sockets'> {
	return {
		...context,
		kind: options.internal ? 'internal' : 'external',
		...quiesceWishes(options),
		overlayTemplate: options.overlayTemplate,
		folder: options.folder,
		memory: options.memory,
		liveMs: parseDuration(options.liveFor, '--live-for'),
		dryRun: options.dryRun,
	};
}

/** Where sockets are named, there is no VM before the snapshot. */
export function namesOf({
	vm,
	qmp,
	snapshot,
}: {
	readonly vm?: string | undefined;
	readonly qmp?: string | undefined;
	readonly snapshot?: string | undefined;
}): {
	readonly vm: string | undefined;
	readonly name: string | undefined;
} {
	if (qmp === undefined) return {vm, name: snapshot};
	if (snapshot !== undefined) throw new UsageError('give either VM or --qmp, not both');
	return {vm: undefined, name: vm};
}
