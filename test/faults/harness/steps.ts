/** The first step that matches; of several patterns, the first one that any step matches. */
export type Place = RegExp | readonly RegExp[];

/** Of all places those that a run has, in the order of the places. */
export function stepsAt(places: readonly Place[], steps: readonly string[]): string[] {
	const found = places.map(place => [place].flat().flatMap(pattern => steps.find(step => pattern.test(step)) ?? []));
	return [...new Set(found.flatMap(([first]) => first ?? []))];
}

/** Where something is at stake, whatever the method is, for the short campaign. What a method does not have is passed over. */
export const FREEZE_WINDOW = [
	/^agent -> guest-fsfreeze-freeze /,
	/^agent <- guest-fsfreeze-freeze /,
	/^qmp -> transaction /,
	/^agent -> guest-fsfreeze-thaw /,
];
/** A VM that is paused for the cut, with its disks being put behind filters. */
export const PAUSE = [/^qmp -> stop /, /^qmp <- qom-set #2/, /^qmp -> cont /];
/** The one command that cuts all disks of a VM which runs on. */
const REOPEN = /^qmp -> blockdev-reopen /;
/** Of `fleece` a transaction comes before it. */
export const CUT_IS_TAKEN: Place = [/^qmp <- blockdev-reopen /, /^qmp <- cont /, /^qmp <- transaction /];
export const COPYING = /^(qmp <- block-job-set-speed|qmp -> query-jobs #2|host start qemu-img (convert|commit))/;
export const CRITICAL: readonly Place[] = [
	/^qmp -> blockdev-add /,
	...FREEZE_WINDOW,
	...PAUSE,
	REOPEN,
	CUT_IS_TAKEN,
	/^qmp -> job-finalize /,
	/^daemon -> blockdev-reopen /,
	/^host rm run\.json /,
	/^host (rename|link) \.?(POINT|vda)/,
	/^qmp <- qom-set #6/,
	COPYING,
];
