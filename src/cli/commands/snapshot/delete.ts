import type {Argv} from 'yargs';
import {UsageError} from '../../../errors.ts';
import {deleteSnapshot, type DeleteSnapshotMessage} from '../../../operations/snapshot-delete.ts';
import {mergePrinter} from '../../merge-printer.ts';
import {printAll, printMessage} from '../../printer.ts';
import {printable} from '../../printable.ts';
import {parseBytes} from '../../quantities.ts';
import {type GlobalOptions, runCommand} from '../../run-command.ts';
import {printNote, printResult} from '../../terminal.ts';
import {type OffOptions, offOptions, vmOf} from '../../off-options.ts';
import {type VmOptions, vmOptions} from '../../vm-options.ts';
import {namesOf} from './create.ts';

interface Options extends GlobalOptions, VmOptions, OffOptions {
	readonly snapshot?: string;
	readonly folder?: string;
	readonly speed?: string;
	readonly dryRun: boolean;
}

export function build(yargs: Argv): Argv {
	return offOptions(vmOptions(yargs))
		.usage(
			'$0 snapshot delete VM NAME\n\nDeletes a snapshot of a VM, which goes on with what it has written. An external one is merged: each ' +
				'overlay into its base, or the base into the overlay, whichever moves less; the files that nothing uses any more are removed.',
		)
		.positional('snapshot', {type: 'string', describe: 'The snapshot'})
		.option('folder', {type: 'string', describe: 'Look for it there too'})
		.option('speed', {type: 'string', describe: 'At most so many bytes a second for each disk, such as 50M'})
		.option('dry-run', {type: 'boolean', default: false, describe: 'Say what would be merged, and do nothing'})
		.group(['folder', 'speed', 'dry-run'], 'Snapshot:')
		.example('$0 snapshot delete web1 before-upgrade --dry-run', 'how much would be merged');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {vm, name} = namesOf(options);
		if (name === undefined) throw new UsageError('no snapshot is named', {hint: '`quiesce snapshot list` shows them.'});
		const request = {
			...context,
			sockets: await vmOf({...options, vm}),
			snapshot: name,
			folder: options.folder,
			dryRun: options.dryRun,
			speed: options.speed === undefined ? undefined : parseBytes(options.speed, '--speed'),
		};
		const printer = mergePrinter({...context, dryRun: options.dryRun});
		const print = (message: DeleteSnapshotMessage): void => {
			if (message.kind !== 'held' && message.kind !== 'deleted') printer.print(message);
			else if (context.json) printMessage(message.kind === 'deleted' ? {...message, kind: 'finished'} : message);
			else printWords(message, context.quiet);
		};
		await printAll(deleteSnapshot(request), {...printer, print});
		return undefined;
	});
}

function printWords(message: Extract<DeleteSnapshotMessage, {kind: 'held' | 'deleted'}>, quiet: boolean): void {
	if (message.kind === 'held') {
		if (!quiet) printNote(printable(`${message.vm}: an internal snapshot in ${message.disks.join(', ')}`));
		return;
	}
	for (const {disk, file} of message.moved) {
		printNote(printable(`${disk} lies on ${file} from now on, and the VM has to be started from that`));
	}
	printResult(printable(message.snapshot));
}
