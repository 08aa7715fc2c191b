import {lastValueFrom, tap} from 'rxjs';
import type {Argv} from 'yargs';
import {GREATEST_GRANULARITY, LEAST_GRANULARITY} from '../../block/granularity.ts';
import {CUT_METHODS} from '../../cut/cut.ts';
import {MAX_STALL_SECONDS} from '../../cut/fleece.ts';
import {UsageError} from '../../errors.ts';
import {backup} from '../../operations/backup.ts';
import type {BackupMessage, BackupRequest} from '../../operations/backup-messages.ts';
import type {WishedKind} from '../../operations/decide-copy.ts';
import {type CopyWishes, LAYOUTS} from '../../operations/plan-copies.ts';
import {backupPrinter} from '../backup-printer.ts';
import {toJson} from '../json.ts';
import {parseBytes, parseDuration} from '../quantities.ts';
import {type RepositoryOption, repositoryOf, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';
import {socketsOf, type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions, RepositoryOption {
	readonly quiesce: BackupRequest['quiesce'];
	readonly disk?: readonly string[];
	readonly exclude?: readonly string[];
	readonly compress: BackupRequest['compression'];
	readonly sink: BackupRequest['sink'];
	readonly method?: BackupRequest['method'];
	readonly kind: WishedKind;
	readonly fullEvery?: string;
	readonly granularity?: string;
	readonly layout: CopyWishes['layout'];
	readonly scratch?: string;
	readonly maxStall: string;
	readonly targetTimeout?: string;
	readonly speed?: string;
	readonly freezeTimeout: string;
	readonly dryRun: boolean;
}

export function build(yargs: Argv): Argv {
	return repositoryOption(vmOptions(yargs))
		.usage(
			'$0 backup [VM] -r FOLDER\n\nTakes a point of all disks of a running VM: cuts them at one instant, with the ' +
				'file systems frozen, and copies them while the guest goes on: all that they hold, or where it can be proved ' +
				'what has changed since an earlier point, that. Prints VM@POINT.',
		)
		.option('quiesce', {
			choices: ['require', 'try', 'never'] as const,
			default: 'try',
			describe: 'Whether to freeze the guest: fail if it cannot be, say so, or do not',
		})
		.option('disk', {type: 'string', array: true, nargs: 1, describe: 'Only this disk (may be repeated)'})
		.option('exclude', {type: 'string', array: true, nargs: 1, describe: 'All disks but this one (may be repeated)'})
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
		.option('freeze-timeout', {type: 'string', default: '60s', describe: 'How long the freeze and its hooks may take'})
		.option('dry-run', {type: 'boolean', default: false, describe: 'Say what would be done, and do nothing'})
		.group(
			[
				...['kind', 'full-every', 'quiesce', 'disk', 'exclude', 'compress', 'layout', 'granularity', 'method'],
				...['scratch', 'max-stall', 'target-timeout', 'sink', 'speed', 'freeze-timeout', 'dry-run', 'repository'],
			],
			'Backup:',
		)
		.example('$0 backup web1 -r /srv/backup', 'all disks of web1, frozen if its agent answers')
		.example('$0 backup web1 -r /srv/backup --full-every 7d', 'a full a week, and what has changed every other night')
		.example('$0 backup --qmp /run/web1.qmp --agent /run/web1.qga -r /srv/backup --quiesce require', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const request: BackupRequest = {
			...context,
			sockets: await socketsOf(options),
			repository: repositoryOf(options),
			quiesce: options.quiesce,
			only: options.disk,
			exclude: options.exclude,
			method: options.method,
			kind: options.kind,
			fullEveryMs: options.fullEvery === undefined ? undefined : parseDuration(options.fullEvery, '--full-every'),
			granularity: options.granularity === undefined ? undefined : parseGranularity(options.granularity),
			layout: options.layout,
			scratch: options.scratch,
			maxStallSeconds: parseMaxStall(options.maxStall),
			targetTimeoutMs:
				options.targetTimeout === undefined ? undefined : parseDuration(options.targetTimeout, '--target-timeout'),
			compression: options.compress,
			sink: options.sink,
			speedBytesPerSecond: options.speed === undefined ? undefined : parseBytes(options.speed, '--speed'),
			freezeTimeoutMs: parseDuration(options.freezeTimeout, '--freeze-timeout'),
			dryRun: options.dryRun,
		};
		const printer = backupPrinter(context);
		const print = (message: BackupMessage): void => {
			if (message.kind !== 'progress') context.log.info(message.kind, {message});
			printer.print(message);
		};
		try {
			const last = await lastValueFrom(backup(request).pipe(tap(print)), {defaultValue: undefined});
			if (context.json && last?.kind === 'planned')
				printResult(toJson({messageType: 'summary', dryRun: true, plan: last.plan}));
		} finally {
			printer.end();
		}
		return undefined;
	});
}

/** QEMU takes whole seconds. */
function parseMaxStall(text: string): number {
	const seconds = parseDuration(text, '--max-stall') / 1000;
	if (Number.isInteger(seconds) && seconds >= 1 && seconds <= MAX_STALL_SECONDS) return seconds;
	throw new UsageError(`--max-stall: '${text}' is not 1, 2, 3 or 4 seconds`, {
		hint: 'QEMU knows this bound in whole seconds, and 7.2 no more than 4.',
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
