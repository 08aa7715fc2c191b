import {judgePoints, pointFolders, removePoints} from '../harness/points.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Place} from '../harness/steps.ts';

const TARGET_DIES =
	'with `--method push`, a guest write to what is not copied yet waits for the target, and fails with it';

/** By `pull` a VM with I/O threads is refused on QEMU 7.2, and one whose NBD server another tool uses. */
const WITHOUT = {
	push: ['scratch-full'],
	fleece: [],
	pull: ['iothreads', 'iothreads-with-guard', 'iothreads-cut-monitor', 'other-tool'],
};
/** There is no job that copies. */
const PULLING: readonly Place[] = [/^qmp <- block-export-add #4$/];

/** A full backup into the target folder. */
export function backup(method: 'push' | 'fleece' | 'pull'): Scenario {
	return {
		name: `backup-${method}`,
		repository: stage => stage.target,
		args: (stage, {slow}) => [
			...['backup', ...stage.sockets, '-r', stage.target, '--method', method, '--quiesce', 'try'],
			...(method === 'push' ? [] : ['--scratch', stage.scratch]),
			...(slow ? ['--speed', '12M'] : []),
		],
		unfinished: stage => pointFolders(stage.target, stage.guest.name, 'hidden'),
		judge: async (stage, ended) => {
			const points = await judgePoints(stage, stage.target);
			await removePoints(stage, stage.target);
			if (ended && points.length !== 1)
				throw new Error(`not the one point that was taken is there, but ${points.length}`);
		},
		// A full does not care how QEMU ended.
		without: ['quit-qemu', ...WITHOUT[method]],
		...(method === 'push'
			? {
					guestBears: {
						'kill-all': TARGET_DIES,
						'target-full': TARGET_DIES,
						'target-eio': TARGET_DIES,
						'target-readonly': TARGET_DIES,
						'target-stalled': TARGET_DIES,
					},
					sample: ['kill-tool', 'kill-all', 'target-stalled'],
				}
			: {}),
		...(method === 'pull'
			? {at: {'target-full': PULLING, 'target-eio': PULLING, 'target-readonly': PULLING, 'target-stalled': PULLING}}
			: {}),
	};
}
