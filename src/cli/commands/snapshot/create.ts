import {tap} from 'rxjs';
import type {Argv} from 'yargs';
import {UsageError} from '../../../errors.ts';
import {MEMORY_MODES, type MemoryMode} from '../../../migration/save-memory.ts';
import {createSnapshot} from '../../../operations/snapshot-create.ts';
import type {SnapshotRequest} from '../../../operations/snapshot-messages.ts';
import {printAll} from '../../printer.ts';
import {parseDuration} from '../../quantities.ts';
import {type GlobalOptions, runCommand} from '../../run-command.ts';
import {snapshotPrinter} from '../../snapshot-printer.ts';
import {socketsOf, type VmOptions, vmOptions} from '../../vm-options.ts';

interface Options extends GlobalOptions, VmOptions {
	readonly snapshot?: string;
	readonly quiesce: SnapshotRequest['quiesce'];
	readonly disk?: readonly string[];
	readonly exclude?: readonly string[];
	readonly internal: boolean;
	readonly overlayTemplate?: string;
	readonly folder?: string;
	readonly memory?: MemoryMode;
	readonly liveFor: string;
	readonly freezeTimeout: string;
	readonly dryRun: boolean;
}

export function build(yargs: Argv): Argv {
	return vmOptions(yargs)
		.usage(
			'$0 snapshot create VM [NAME]\n\nFrom one instant on lets the guest write to new images over those that it has, which ' +
				'then hold what its disks held: all at once, with the file systems frozen. Prints the name of the snapshot, and ' +
				'says which image each disk lies on from then on.',
		)
		.positional('snapshot', {type: 'string', describe: 'What to call it; else the time'})
		.option('quiesce', {
			choices: ['require', 'try', 'never'] as const,
			default: 'try',
			describe: 'Whether to freeze the guest: fail if it cannot be, say so, or do not',
		})
		.option('disk', {type: 'string', array: true, nargs: 1, describe: 'Only this disk (may be repeated)'})
		.option('exclude', {type: 'string', array: true, nargs: 1, describe: 'All disks but this one (may be repeated)'})
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
		.option('freeze-timeout', {type: 'string', default: '60s', describe: 'How long the freeze and its hooks may take'})
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
		.example('$0 snapshot create --qmp /run/web1.qmp before-upgrade --disk vda', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {vm, name} = namesOf(options);
		if (options.internal && options.overlayTemplate !== undefined) {
			throw new UsageError('--internal makes no overlays, so it goes without --overlay-template');
		}
		const request: SnapshotRequest = {
			...context,
			sockets: await socketsOf({...options, vm}),
			snapshot: name,
			kind: options.internal ? 'internal' : 'external',
			quiesce: options.quiesce,
			only: options.disk,
			exclude: options.exclude,
			overlayTemplate: options.overlayTemplate,
			folder: options.folder,
			memory: options.memory,
			liveMs: parseDuration(options.liveFor, '--live-for'),
			freezeTimeoutMs: parseDuration(options.freezeTimeout, '--freeze-timeout'),
			dryRun: options.dryRun,
		};
		const logged$ = createSnapshot(request).pipe(
			tap(message => {
				if (message.kind !== 'progress') context.log.info(message.kind, {message});
			}),
		);
		await printAll(logged$, snapshotPrinter(context));
		return undefined;
	});
}

/** Where sockets are named, there is no VM before the snapshot. */
export function namesOf({vm, qmp, snapshot}: Pick<Options, 'vm' | 'qmp' | 'snapshot'>): {
	readonly vm: string | undefined;
	readonly name: string | undefined;
} {
	if (qmp === undefined) return {vm, name: snapshot};
	if (snapshot !== undefined) throw new UsageError('give either VM or --qmp, not both');
	return {vm: undefined, name: vm};
}
