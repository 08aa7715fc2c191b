import {existsSync} from 'node:fs';
import {readdir, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {judgeDisks} from '../harness/points.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Place} from '../harness/steps.ts';

const COPY =
	'for d in vda vdb vdc vdd; do eval "uri=\\$QUIESCE_URI_$d"; nbdcopy "$uri" "$0/$d.raw" || exit 1; done; exec sleep "$1"';

const PLACES: readonly Place[] = [
	/^qmp <- blockdev-reopen #1$/,
	/^qmp <- nbd-server-start #1$/,
	/^qmp <- block-export-add #4$/,
	/^host start sh .*#1$/,
	/^qmp -> block-export-del #1$/,
];

/** All disks, which a command reads. */
export const exposed: Scenario = {
	name: 'expose',
	prepare: async stage => {
		await stage.succeed(['backup', ...stage.sockets, '-r', stage.repository, '--quiesce', 'never', '--method', 'push']);
	},
	repository: stage => stage.repository,
	args: (stage, {slow}) => [
		...['expose', ...stage.sockets, '--quiesce', 'try', '--scratch', stage.scratch],
		...['--', 'sh', '-c', COPY, stage.target, slow ? '3' : '0'],
	],
	unfinished: () => Promise.resolve([]),
	judge: async (stage, ended) => {
		if (ended) {
			if (!existsSync(join(stage.target, 'vdd.raw'))) throw new Error('the disks were not read');
			await judgeDisks(stage, stage.target, false);
		}
		for (const file of await readdir(stage.target)) await rm(join(stage.target, file), {recursive: true});
	},
	only: [
		'kill-tool',
		'kill-with-guard',
		'kill-all',
		'kill-qemu',
		'cut-monitor',
		'scratch-full',
		'reader-dies',
		'reader-stalls',
	],
	at: {
		'kill-tool': PLACES,
		'kill-with-guard': PLACES,
		'kill-all': PLACES,
		'kill-qemu': [/^qmp <- block-export-add #4$/],
		'cut-monitor': [/^qmp <- blockdev-reopen #1$/, /^qmp <- block-export-add #4$/],
	},
};
