import {existsSync} from 'node:fs';
import {basename, join} from 'node:path';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage} from '../harness/stage.ts';
import {backUp, ON_QCOW2, OVERLAYS, overlaysIn, putOverlay} from './commit.ts';

const DISK = 'vda';
const baseOf = (stage: Stage): string => join(stage.folder, `${DISK}.qcow2`);

/** Of one of two overlays of a disk up into the other, while the guest goes on to write; the image of the disk stays beneath. */
export const stream: Scenario = {
	name: 'stream',
	vm: ON_QCOW2,
	arrange: async stage => {
		await backUp(stage);
		await putTwo(stage);
	},
	repository: stage => stage.target,
	args: (stage, {slow}) => [
		...['stream', ...stage.sockets, '--disk', DISK, '--base', baseOf(stage), '--delete'],
		...(slow ? ['--speed', '1M'] : []),
	],
	unfinished: () => Promise.resolve([]),
	judge: async (stage, ended) => {
		await backUp(stage);
		const overlays = await overlaysIn(stage);
		const gone = [baseOf(stage), ...overlays].filter(file => !existsSync(file));
		if (gone.length > 0) throw new Error(`gone are ${gone.join(', ')}, on which the guest writes`);
		if (ended && overlays.length !== 1)
			throw new Error(`not pulled up are ${overlays.map(file => basename(file)).join(', ')}`);
		// Nothing of it may be in the one that is pulled up: the disk goes back to its image.
		if (overlays.length > 0) await stage.succeed(['commit', ...stage.sockets, '--disk', DISK]);
		if (!ended) await putTwo(stage);
	},
	mayLeave: OVERLAYS,
	only: ['kill-tool', 'kill-with-guard', 'kill-all', 'cut-monitor'],
	at: {
		'kill-tool': [
			/^qmp <- block-stream #1$/,
			/^qmp <- (BLOCK_JOB_COMPLETED|JOB_STATUS_CHANGE (pending|concluded)) #1$/,
			/^host rm .*\.qcow2 #1$/,
		],
		'kill-with-guard': [/^qmp <- block-stream #1$/],
		'kill-all': [/^qmp <- block-stream #1$/],
		'cut-monitor': [/^qmp <- block-stream #1$/],
	},
};

async function putTwo(stage: Stage): Promise<void> {
	for (let there = (await overlaysIn(stage)).length; there < 2; there++) await putOverlay(stage, [DISK]);
}
