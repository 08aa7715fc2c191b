/**
 * Where something is at stake, whatever the method is: patterns of step names for the short campaign. The first step
 * that matches is meant; what a method does not have is passed over.
 */
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
export const CUT_IS_TAKEN = /^qmp <- (blockdev-reopen|transaction|cont) /;
export const COPYING = /^(qmp <- block-job-set-speed|qmp -> query-jobs #2|host start qemu-img convert)/;
export const CRITICAL = [
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
