import {concatAll, defer, tap} from 'rxjs';
import type {Argv} from 'yargs';
import {GREATEST_GRANULARITY, LEAST_GRANULARITY} from '../../block/granularity.ts';
import type {Config} from '../../config/config-schema.ts';
import {CUT_METHODS} from '../../cut/cut.ts';
import {UsageError} from '../../errors.ts';
import {parseCopyCommand} from '../../images/copy-image.ts';
import {backup} from '../../operations/backup.ts';
import {backupGroup, type GroupBackupMessage, type GroupBackupRequest} from '../../operations/backup-group.ts';
import type {BackupPlan, BackupRequest} from '../../operations/backup-messages.ts';
import {followed} from '../../operations/followed-run.ts';
import type {WishedKind} from '../../operations/decide-copy.ts';
import {type CopyWishes, LAYOUTS} from '../../operations/plan-copies.ts';
import {configuredHooks, followersOf} from '../backup-followers.ts';
import {backupPrinter, printWords} from '../backup-printer.ts';
import {type CopyOptions, copyWishes} from '../copy-options.ts';
import {type CutOptions, cutOptions, quiesceWishes} from '../cut-options.ts';
import {type GroupOptions, groupOf, groupOptions, namesInGroup, oneOf} from '../group-options.ts';
import {groupDisks} from '../group-disks.ts';
import {groupPrinter} from '../group-printer.ts';
import {toJson} from '../json.ts';
import {printAndLog} from '../printer.ts';
import {parseBytes, parseDuration} from '../quantities.ts';
import {repositoryOf} from '../repository-options.ts';
import {type OffOptions, offOptions, requireOn, vmOf} from '../off-options.ts';
import {type CommandContext, type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';

interface Options extends GlobalOptions, GroupOptions, OffOptions, CutOptions, CopyOptions {
	readonly compress: BackupRequest['compression'];
	readonly sink: BackupRequest['sink'];
	readonly method?: BackupRequest['method'];
	readonly kind: WishedKind;
	readonly fullEvery?: string;
	readonly granularity?: string;
	readonly layout: CopyWishes['layout'];
	readonly scratch?: string;
	readonly copyCommand?: string;
	readonly noHashes: boolean;
	readonly dryRun: boolean;
}

export function build(yargs: Argv): Argv {
	return cutOptions(offOptions(groupOptions(yargs)))
		.usage(
			'$0 backup [VM…] -r FOLDER\n\nTakes a point of all disks of a VM. Of one that runs: cuts them at one instant, with the ' +
				'file systems frozen, and copies them while the guest goes on: all that they hold, or where it can be proved ' +
				'what has changed since an earlier point, that. Of one that is off: the same from its images. Prints VM@POINT. ' +
				'Several VMs, with --group, are cut together.',
		)
		.option('compress', {choices: ['zstd', 'none'] as const, default: 'zstd', describe: 'How the copy is stored'})
		.option('sink', {
			choices: ['daemon', 'inline'] as const,
			default: 'daemon',
			describe: 'Who writes the files: a daemon of ours, or the QEMU of the VM',
		})
		.option('method', {
			choices: CUT_METHODS,
			describe:
				'How the point is read; default fleece, which never lets the guest wait for the target, where the VM can',
		})
		.option('kind', {
			choices: ['auto', 'full', 'incremental', 'differential'] as const,
			default: 'auto',
			describe: 'What to copy of each disk: what has changed since the last point or since the last full one, or all',
		})
		.option('full-every', {type: 'string', describe: 'Take a full when the last one is so old, such as 7d'})
		.option('granularity', {
			type: 'string',
			describe: 'Bytes for one bit of the bitmaps that record changes; default 64K, more for disks over 4 TiB',
		})
		.option('layout', {
			choices: LAYOUTS,
			default: 'auto',
			describe: 'How increments are stored: as a chain of images, or as clones, which the file system has to know',
		})
		.option('scratch', {
			type: 'string',
			describe: 'Where fleece keeps old data while it copies, instead of beside the images: a local folder',
		})
		.option('copy-command', {
			type: 'string',
			describe: "With --method overlay: what copies an image, such as 'rsync -a {source} {target}'",
		})
		.option('no-hashes', {
			type: 'boolean',
			default: false,
			describe: 'With --method overlay: read nothing of images that share their data with the repository',
		})
		.option('max-stall', {
			type: 'string',
			default: '2s',
			describe: 'How long fleece may hold up a write of the guest, after which the backup fails: 1s to 4s',
		})
		.option('target-timeout', {
			type: 'string',
			describe: 'Fail when the target takes nothing for so long; default 10s for push, 5m for fleece',
		})
		.option('speed', {type: 'string', describe: 'At most so many bytes a second for each disk, such as 50M'})
		.option('dry-run', {type: 'boolean', default: false, describe: 'Say what would be done, and do nothing'})
		.group(
			[
				...['kind', 'full-every', 'quiesce', 'disk', 'exclude', 'compress', 'layout', 'granularity', 'method'],
				...[
					'scratch',
					'copy-command',
					'no-hashes',
					'max-stall',
					'target-timeout',
					'sink',
					'speed',
					'freeze-timeout',
					'dry-run',
					'repository',
				],
			],
			'Backup:',
		)
		.example('$0 backup web1 -r /srv/backup', 'all disks of web1, frozen if its agent answers')
		.example('$0 backup web1 -r /srv/backup --full-every 7d', 'a full a week, and what has changed every other night')
		.example('$0 backup web1 db1 -r /srv/backup --group shop', 'both frozen, then cut, then thawed; or neither')
		.example('$0 backup web1 --off -r /srv/backup', 'what has changed in its images, while it is off')
		.example('$0 backup --qmp /run/web1.qmp --agent /run/web1.qga -r /srv/backup --quiesce require', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		await (options.group === undefined ? takeOne(options, context) : takeGroup(options, options.group, context));
		return undefined;
	});
}

async function takeOne(options: Options, context: CommandContext): Promise<void> {
	const {name, qmp, config} = options;
	const {vm} = oneOf(options);
	const called = {vms: [vm ?? name ?? qmp ?? ''], repository: repositoryOf(options)};
	const followers = followersOf(options.dryRun ? undefined : config, called, context);
	const message$ = defer(async () =>
		backup({
			...requestOf(options, context),
			hooks: followers.hooks,
			sockets: await vmOf({...options, vm, repository: called.repository}),
			only: options.disk,
			exclude: options.exclude,
		}),
	).pipe(concatAll());
	const last = await printAndLog(followed(message$, followers), backupPrinter(context), context);
	if (context.json && last?.kind === 'planned')
		printResult(toJson({messageType: 'summary', dryRun: true, plan: last.plan}));
}

async function takeGroup(options: Options, group: string, context: CommandContext): Promise<void> {
	requireOn(options);
	const config = options.dryRun ? undefined : options.config;
	const called = {group, vms: namesInGroup({...options, group}), repository: repositoryOf(options)};
	const message$ = followed(
		defer(async () => backupGroup(await groupRequest(options, group, config, context))).pipe(concatAll()),
		followersOf(config, called, context),
	);
	const plans: BackupPlan[] = [];
	const planned$ = message$.pipe(
		tap(message => {
			if (message.kind === 'planned') plans.push(message.plan);
		}),
	);
	await printAndLog<GroupBackupMessage>(planned$, groupPrinter(context, printWords), context);
	if (context.json && options.dryRun) printResult(toJson({messageType: 'summary', dryRun: true, plans}));
}

async function groupRequest(
	options: Options,
	group: string,
	config: Config | undefined,
	context: CommandContext,
): Promise<GroupBackupRequest> {
	const {members} = await groupOf({...options, group});
	const disks = groupDisks([...members.keys()], options);
	const requests = Array.from(members, ([vm, sockets]): [string, BackupRequest] => {
		const request = requestOf(options, context);
		const hooks = configuredHooks(config, {VM: vm, GROUP: group, REPOSITORY: request.repository}, context);
		return [vm, {...request, sockets, hooks, ...disks.get(vm)}];
	});
	return {group, members: new Map(requests), signal: context.signal};
}

function requestOf(options: Options, context: CommandContext): Omit<BackupRequest, 'sockets'> {
	return {
		...context,
		repository: repositoryOf(options),
		...quiesceWishes(options),
		...copyWishes(options),
		method: options.method,
		kind: options.kind,
		fullEveryMs: options.fullEvery === undefined ? undefined : parseDuration(options.fullEvery, '--full-every'),
		granularity: options.granularity === undefined ? undefined : parseGranularity(options.granularity),
		layout: options.layout,
		scratch: options.scratch,
		copyCommand: copyCommandOf(options),
		hashes: hashesOf(options),
		compression: options.compress,
		sink: options.sink,
		dryRun: options.dryRun,
	};
}

function copyCommandOf({copyCommand, method}: Options): readonly string[] | undefined {
	if (copyCommand === undefined) return undefined;
	if (method === 'overlay') return parseCopyCommand(copyCommand);
	throw new UsageError('--copy-command is for --method overlay');
}

function hashesOf({noHashes, method}: Options): BackupRequest['hashes'] {
	if (!noHashes || method === 'overlay') return noHashes ? 'none' : 'all';
	throw new UsageError('--no-hashes is for --method overlay', {
		hint: 'By the other methods all is read anyway, and hashed on the way.',
	});
}

function parseGranularity(text: string): number {
	const bytes = parseBytes(text, '--granularity');
	const isPower = bytes > 0 && Number.isInteger(Math.log2(bytes));
	if (isPower && bytes >= LEAST_GRANULARITY && bytes <= GREATEST_GRANULARITY) return bytes;
	throw new UsageError(`--granularity: '${text}' is not a power of two from 64K to 2G`, {
		hint: 'Finer than 64K would save nothing: copies are made of clusters of that size.',
	});
}
