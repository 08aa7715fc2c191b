import {readdir, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {judgeDisks} from '../harness/points.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage} from '../harness/stage.ts';

const folderOf = (stage: Stage): string => join(stage.target, 'restored');

/** A restore of all disks to a folder. The guest has no part in it. */
export const restore: Scenario = {
	name: 'restore',
	prepare: async stage => {
		await stage.succeed(['backup', ...stage.sockets, '-r', stage.repository, '--quiesce', 'require']);
	},
	repository: stage => stage.repository,
	args: stage => [
		...['restore', stage.guest.name, '-r', stage.repository],
		...['--to', folderOf(stage), '--format', 'raw'],
	],
	unfinished: stage => Promise.resolve([folderOf(stage)]),
	judge: async (stage, ended) => {
		const names = (await readdir(folderOf(stage)).catch(() => [])).filter(name => name.endsWith('.raw'));
		if (ended && names.length !== 4) throw new Error(`restored are only ${names.join(', ')}`);
		if (names.length === 4) await judgeDisks(stage, folderOf(stage), true);
		await rm(folderOf(stage), {recursive: true, force: true});
	},
	only: ['kill-tool', 'kill-all', 'target-full', 'target-eio', 'target-readonly', 'target-stalled', 'target-deleted'],
};
