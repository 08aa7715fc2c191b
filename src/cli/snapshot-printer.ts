import type {SnapshotMessage} from '../operations/snapshot-messages.ts';
import type {SnapshotManifest} from '../snapshots/manifest.ts';
import {printCut} from './cut-printer.ts';
import {printable} from './printable.ts';
import {openPrinter, type Printer} from './printer.ts';
import type {ProgressView} from './progress-lines.ts';
import {countOf, formatBytes} from './quantities.ts';
import {printResult, styled} from './terminal.ts';

/** JSON lines on stdout; or words on stderr, and at the end the snapshot's name on stdout. */
export function snapshotPrinter(output: {readonly json: boolean; readonly quiet: boolean}): Printer<SnapshotMessage> {
	return openPrinter(output, printWords);
}

/** `named`: what the view shows bears the VM's name already. */
export function printWords(message: SnapshotMessage, view: ProgressView, named = false): void {
	const note = (text: string): void => {
		view.note(text);
	};
	switch (message.kind) {
		case 'recovered':
		case 'warning':
		case 'cut':
			printCut(message, view);
			break;
		case 'progress':
			view.show([{name: 'memory', doneBytes: message.doneBytes, totalBytes: message.totalBytes}]);
			break;
		case 'planned': {
			const {vm, snapshot, disks, skipped, quiesce} = message;
			note(
				printable(
					`${named ? '' : `${vm}: `}snapshot ${snapshot} of ${countOf(disks.length, 'disk')}, ${quiesce ? 'with' : 'without'} a freeze`,
				),
			);
			for (const {name, sizeBytes, base, overlay} of disks)
				note(printable(`  ${name} (${formatBytes(sizeBytes)}): ${overlay ?? `in ${base}`}`));
			for (const {name, reason} of skipped) note(printable(`  not ${name}: ${reason}`));
			break;
		}
		case 'finished':
			for (const line of whereLines(message.manifest)) note(line);
			printResult(printable(named ? `${message.manifest.vm}@${message.manifest.name}` : message.manifest.name));
	}
}

function whereLines({disks, kind}: SnapshotManifest): string[] {
	if (kind === 'internal') return [`${styled('green', 'done:')} the images have it in themselves`];
	return [
		`${styled('green', 'done:')} the disks lie on these images from now on, and the VM has to be started from them:`,
		...disks.map(({name, overlay}) => printable(`  ${name}: ${overlay?.file ?? ''}`)),
	];
}
