import type {BackupMessage, BackupPlan, PlannedDisk} from '../operations/backup-messages.ts';
import {kindOf, type PointManifest} from '../repository/manifest.ts';
import {printCut} from './cut-printer.ts';
import {printable} from './printable.ts';
import {openPrinter, type Printer} from './printer.ts';
import type {ProgressView} from './progress-lines.ts';
import {countOf, formatBytes, formatSeconds} from './quantities.ts';
import {printResult, styled} from './terminal.ts';

/** JSON lines on stdout; or words and progress on stderr, and at the end the point's name on stdout. */
export function backupPrinter(output: {readonly json: boolean; readonly quiet: boolean}): Printer<BackupMessage> {
	return openPrinter(output, printWords);
}

/** `named`: what the view shows bears the VM's name already. */
export function printWords(message: BackupMessage, view: ProgressView, named = false): void {
	switch (message.kind) {
		case 'recovered':
		case 'warning':
		case 'cut':
			printCut(message, view);
			break;
		case 'planned':
			for (const line of planLines(message.plan, named)) view.note(line);
			break;
		case 'progress':
			view.show(message.disks.map(({disk, doneBytes, totalBytes}) => ({name: disk, doneBytes, totalBytes})));
			break;
		case 'settling':
			view.note('copied; closing, checking and syncing the files');
			break;
		case 'finished':
			for (const line of reportLines(message.manifest)) view.note(line);
			printResult(`${message.manifest.vm}@${message.manifest.id}`);
	}
}

function planLines(
	{vm, power, disks, skipped, quiesce, method, sink, compression}: BackupPlan,
	named: boolean,
): string[] {
	const names = disks.map(disk => `${disk.name} (${formatBytes(disk.sizeBytes)}${changedWords(disk)})`).join(', ');
	return [
		`${named ? '' : `${printable(vm)}: `}${kindOf(disks)} backup of ${printable(names)}`,
		...reasonLines(disks).map(line => `  ${printable(line)}`),
		...skipped.map(({name, reason}) => `  not ${printable(name)}: ${reason}`),
		`  ${power === 'off' ? 'the VM is off' : `${quiesce ? 'with' : 'without'} a freeze`}, by ${method}${method === 'overlay' ? `, copied by ${sink}` : ` to the ${sink} sink`}, ${compression === 'none' ? 'not compressed' : compression}`,
	];
}

function changedWords({changedBytes}: PlannedDisk): string {
	return changedBytes === null ? '' : `, ${formatBytes(changedBytes)} changed`;
}

/** `vda, vdb: full, because it is the first point`: a line for each reason. */
export function reasonLines(disks: readonly Pick<PlannedDisk, 'name' | 'kind' | 'reason'>[]): string[] {
	const groups = Map.groupBy(
		disks.filter(({reason}) => reason !== null),
		({kind, reason}) => `${kind}, because ${reason ?? ''}`,
	);
	return Array.from(groups, ([words, group]) => `${group.map(({name}) => name).join(', ')}: ${words}`);
}

function reportLines(manifest: PointManifest): string[] {
	const {disks, cutAt, finishedAt, consistency, kind} = manifest;
	const seconds = (Date.parse(finishedAt) - Date.parse(cutAt)) / 1000;
	const total = disks.reduce((sum, disk) => sum + disk.sizeBytes, 0);
	const stored = disks.reduce((sum, disk) => sum + disk.addedBytes, 0);
	return [
		`${styled('green', 'done:')} ${consistency} ${kind} point of ${countOf(disks.length, 'disk')} in ${formatSeconds(seconds)}: ` +
			`${formatBytes(total)} stored as ${formatBytes(stored)}`,
	];
}
