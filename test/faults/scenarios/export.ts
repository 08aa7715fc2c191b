import {mkdir, readdir, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {judgeDisks} from '../harness/points.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage} from '../harness/stage.ts';

const ARCHIVE = 'vm.vma.zst';

/** Of a VM to a compressed archive in the target folder. */
export const exported: Scenario = {
	name: 'export',
	prepare: async stage => {
		await stage.succeed(['backup', ...stage.sockets, '-r', stage.repository, '--quiesce', 'never', '--method', 'push']);
	},
	repository: stage => stage.repository,
	args: (stage, {slow}) => [
		...['export', ...stage.sockets, '--output', join(stage.target, ARCHIVE), '--quiesce', 'try'],
		...['--scratch', stage.scratch, ...(slow ? ['--speed', '12M'] : [])],
	],
	unfinished: stage => filesOf(stage, name => name.endsWith('.partial')),
	judge: async (stage, ended) => {
		// A file system that was cut off forgets a folder that nobody has synced.
		await mkdir(stage.target, {recursive: true});
		const whole = await filesOf(stage, name => name === ARCHIVE);
		if (ended && whole.length === 0) throw new Error('the archive that was written is not there');
		for (const file of whole) {
			await stage.succeed(['verify', file]);
			const to = stage.new('restored');
			await stage.succeed(['restore', file, '--to', to]);
			await judgeDisks(stage, to, false);
			await rm(to, {recursive: true});
		}
		for (const file of await filesOf(stage, name => !name.endsWith('.partial'))) await rm(file);
		if (ended && (await filesOf(stage, () => true)).length > 0) throw new Error('an unfinished archive is left');
	},
	only: [
		...['kill-tool', 'kill-with-guard', 'kill-all', 'hang-tool', 'kill-recovery', 'kill-qemu', 'cut-monitor'],
		...['target-full', 'target-eio', 'target-readonly', 'target-stalled', 'scratch-full'],
	],
};

async function filesOf(stage: Stage, which: (name: string) => boolean): Promise<string[]> {
	return (await readdir(stage.target)).filter(which).map(name => join(stage.target, name));
}
