import {writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage} from '../harness/stage.ts';
import {backup} from './backup.ts';

const scriptOf = (stage: Stage): string => join(stage.folder, 'slow-copy');

const {repository, unfinished, judge} = backup('push');

/** A backup for which the guest writes to overlays; a slow one copies by a command that takes its time. */
export const overlay: Scenario = {
	name: 'backup-overlay',
	prepare: stage => writeFile(scriptOf(stage), '#!/bin/sh\nsleep 2\nexec cp "$1" "$2"\n', {mode: 0o755}),
	args: (stage, {slow}) => [
		...['backup', ...stage.sockets, '-r', stage.target, '--method', 'overlay', '--quiesce', 'try'],
		...(slow ? ['--copy-command', `${scriptOf(stage)} {source} {target}`] : []),
	],
	...{repository, unfinished, judge},
	// Of what a guest has not flushed, a killed QEMU has written any part to an overlay: docs/back-up.md.
	without: ['quit-qemu', 'kill-qemu', 'power-cut', 'scratch-full'],
	at: {
		'kill-tool': [
			/^qmp -> blockdev-add #\d/,
			/^agent <- guest-fsfreeze-freeze /,
			/^qmp -> transaction /,
			/^qmp <- transaction /,
			/^host start .*slow-copy/,
			/^qmp <- block-commit #1/,
			/^qmp -> job-complete #2/,
			/^qmp -> blockdev-del #1/,
			/^host rm \..*overlay\.qcow2 #2/,
			/^host (rename|link) \.?POINT/,
		],
	},
	sample: ['kill-tool', 'kill-with-guard'],
};
