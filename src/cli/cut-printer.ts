import type {CutRecord} from '../operations/backup-messages.ts';
import type {PointManifest} from '../repository/manifest.ts';
import {printable} from './printable.ts';
import type {ProgressView} from './progress-lines.ts';
import {countOf, formatSeconds} from './quantities.ts';
import {styled} from './terminal.ts';

/** What everything that cuts the disks of a VM tells on its way. */
export type CutMessage =
	{readonly kind: 'recovered' | 'warning'; readonly text: string} | ({readonly kind: 'cut'} & CutRecord);

export function printCut(message: CutMessage, view: ProgressView): void {
	if (message.kind !== 'cut') {
		view.warn(`${styled('yellow', `${message.kind}:`)} ${printable(message.text)}`);
		return;
	}
	view.note(cutLine(message));
	if (message.degraded === undefined) return;
	view.warn(`${styled('yellow', 'warning:')} crash-consistent only: ${printable(message.degraded)}`);
}

function cutLine({consistency, freeze, standstill}: CutRecord): string {
	const stood = standstill ? `; ${standstillWords(standstill)}` : '';
	if (!freeze) return `cut: ${consistency}${stood}`;
	const {fileSystems, freezeSeconds, heldSeconds, thawSeconds} = freeze;
	const times = [freezeSeconds, heldSeconds, thawSeconds].map(formatSeconds);
	return (
		`cut: ${consistency}; ${countOf(fileSystems, 'file system')} frozen ` +
		`(freeze ${times[0] ?? ''}, held ${times[1] ?? ''}, thaw ${times[2] ?? ''})${stood}`
	);
}

/** `the disks stood still for 4.2 ms` */
export function standstillWords({of, seconds}: NonNullable<PointManifest['standstill']>): string {
	return `${of === 'vm' ? 'the VM was paused' : 'the disks stood still'} for ${formatSeconds(seconds)}`;
}
