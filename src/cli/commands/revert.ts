import path from 'node:path';
import {concatMap, defer, type Observable} from 'rxjs';
import type {Argv} from 'yargs';
import {parseAddress} from '../../config/address.ts';
import {UsageError} from '../../errors.ts';
import {formatBootCommand} from '../../operations/boot-command.ts';
import {revertInside, type RevertInsideMessage} from '../../operations/revert-inside.ts';
import {revertOff} from '../../operations/revert-off.ts';
import {revert} from '../../operations/revert.ts';
import type {RevertMessage} from '../../operations/revert-messages.ts';
import type {VmRequest} from '../../operations/with-vm.ts';
import {snapshotsFolder} from '../../snapshots/layout.ts';
import {printable} from '../printable.ts';
import {openPrinter, printAll} from '../printer.ts';
import type {ProgressView} from '../progress-lines.ts';
import {parseDuration} from '../quantities.ts';
import {type OffOptions, offOptions, imagesOf} from '../off-options.ts';
import {parsePointName} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult, styled} from '../terminal.ts';
import {socketsOf} from '../vm-options.ts';

interface Options extends GlobalOptions, OffOptions {
	readonly snapshot: string;
	readonly qmp?: string;
	readonly folder?: string;
	readonly start: boolean;
	readonly wait: string;
	readonly overlayTemplate?: string;
	readonly dropBitmaps: boolean;
	readonly dropBitmap?: readonly string[];
	readonly exclude?: readonly string[];
}

type Message = RevertMessage | RevertInsideMessage;

export function build(yargs: Argv): Argv {
	return offOptions(yargs)
		.usage(
			'$0 revert VM@SNAPSHOT\n\nBrings a VM back to a snapshot. With --folder to an external one, for which the VM must not ' +
				'run: makes new images over those of the snapshot, prints the command that starts the VM from them, and ' +
				'gives it its memory once it is started. Without, to one inside the images of the running VM; or of one that is ' +
				'off, with --off or --image, the disks alone.',
		)
		.positional('snapshot', {type: 'string', demandOption: true, describe: 'VM@SNAPSHOT'})
		.option('folder', {
			type: 'string',
			describe: 'Where the external snapshot is noted: the folder that has VM.snapshots',
		})
		.option('start', {type: 'boolean', default: false, describe: 'Start the VM too'})
		.option('wait', {type: 'string', default: '10m', describe: 'How long to wait until the VM is started'})
		.option('overlay-template', {
			type: 'string',
			describe:
				'What the new images are called, with {run} besides what `snapshot create` knows; default {stem}.{name}-{run}.qcow2',
		})
		.option('drop-bitmaps', {
			type: 'boolean',
			default: false,
			describe: 'Inside the images: remove the bitmaps of backups; the next backup is full then',
		})
		.option('drop-bitmap', {
			type: 'string',
			array: true,
			nargs: 1,
			describe: 'The same for this bitmap of another program (may be repeated)',
		})
		.option('exclude', {
			type: 'string',
			array: true,
			nargs: 1,
			describe: 'With --off: all disks but this one (may be repeated)',
		})
		.option('qmp', {
			type: 'string',
			describe: "The VM's QMP monitor, where VM or its command line do not tell: unix:/path or tcp:host:port",
		})
		.group(['folder', 'start', 'wait', 'overlay-template', 'drop-bitmaps', 'drop-bitmap', 'exclude', 'qmp'], 'Revert:')
		.example('$0 revert web1@running --folder /vm --start', 'go on where the snapshot was taken')
		.example('$0 revert web1@before', 'to an internal snapshot, while the VM runs')
		.example('$0 revert web1@before --image vda=/vm/web1.qcow2,format=qcow2', 'while it is off');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {vm, point: snapshot} = parsePointName(options.snapshot);
		if (snapshot === undefined) throw new UsageError(`'${options.snapshot}' names no snapshot: write VM@SNAPSHOT`);
		const messages$ = revertBy(options, context, {vm, snapshot});
		await printAll(messages$, openPrinter(context, printWords));
		return undefined;
	});
}

/** By which of the three ways. */
function revertBy(
	options: Options,
	context: Pick<VmRequest, 'signal' | 'transcript' | 'tell'>,
	{vm, snapshot}: {readonly vm: string; readonly snapshot: string},
): Observable<Message> {
	const {qmp, folder, off, image = []} = options;
	const inside = {...context, snapshot, dropBitmaps: options.dropBitmaps, dropNamed: options.dropBitmap ?? []};
	if (off || image.length > 0) {
		if (folder !== undefined)
			throw new UsageError('--folder is for external snapshots, and goes without --off and --image');
		const images = imagesOf({...options, name: vm});
		return revertOff({...inside, vm: images, exclude: options.exclude});
	}
	if (folder === undefined) {
		const named = {vm: qmp === undefined ? vm : undefined, qmp, name: vm};
		return defer(() => socketsOf(named)).pipe(concatMap(sockets => revertInside({...inside, sockets})));
	}
	return revert({
		...context,
		snapshot: {folder: snapshotsFolder(path.resolve(folder), vm), name: snapshot},
		start: options.start,
		monitor: qmp === undefined ? undefined : parseAddress(qmp),
		waitMs: parseDuration(options.wait, '--wait'),
		overlayTemplate: options.overlayTemplate,
	});
}

function printWords(message: Message, view: ProgressView): void {
	switch (message.kind) {
		case 'recovered':
		case 'warning':
			view.warn(`${styled('yellow', `${message.kind}:`)} ${printable(message.text)}`);
			break;
		case 'prepared':
			for (const {name, overlay} of message.disks) view.note(printable(`  ${name}: ${overlay}`));
			for (const note of message.notes) view.warn(`note: ${printable(note)}`);
			if (message.starts) break;
			view.note(message.memory ? 'start it with this, and it is given its memory:' : 'start it with:');
			printResult(formatBootCommand(message.argv));
			break;
		case 'progress':
			view.show([{name: 'memory', doneBytes: message.doneBytes, totalBytes: message.totalBytes}]);
			break;
		case 'finished':
			view.note(`${styled('green', 'done:')} ${finishedWords(message.status)}`);
	}
}

function finishedWords(status: string | null): string {
	if (status === null) return 'the images are ready';
	if (status === 'off') return 'the images are as they were at the snapshot';
	return status === 'running' ? 'the VM goes on from the snapshot' : `the VM is as it was at the snapshot (${status})`;
}
