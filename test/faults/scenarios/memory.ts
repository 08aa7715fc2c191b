import {existsSync} from 'node:fs';
import {mkdir, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {output} from '../../guest/command.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage} from '../harness/stage.ts';
import {commitAll, judgeBases, manifestIn, snapshot} from './snapshot.ts';

const NAME = 'struck';
const placeOf = (stage: Stage): string => join(stage.target, 'notes');
const folderOf = (stage: Stage): string => join(placeOf(stage), `${stage.guest.name}.snapshots`);

const STRUCK_BY = [
	...['kill-tool', 'kill-with-guard', 'kill-all', 'hang-tool', 'kill-recovery', 'kill-qemu', 'cut-monitor'],
	...['target-full', 'target-eio', 'target-readonly', 'target-stalled'],
];

/** A snapshot with the memory of the running guest, which is saved to the target. */
export const memory: Scenario = {
	...snapshot,
	name: 'memory',
	arrange: async stage => {
		await snapshot.arrange?.(stage);
		await mkdir(placeOf(stage), {recursive: true});
	},
	args: stage => [
		'snapshot',
		'create',
		...stage.sockets,
		NAME,
		'--memory',
		'--quiesce',
		'never',
		'--folder',
		placeOf(stage),
	],
	judge: async (stage, ended) => {
		const folder = folderOf(stage);
		if (existsSync(join(folder, `.${NAME}.partial`))) throw new Error('an unfinished snapshot is left');
		const manifest = await manifestIn(join(folder, NAME));
		if (!manifest) {
			if (ended) throw new Error('the snapshot that was taken is not there');
			return;
		}
		if (ended && !manifest.memory) throw new Error('the memory was not saved');
		await output('sh', ['-c', 'cd "$1" && sha256sum -c --quiet SHA256SUMS', 'sh', join(folder, NAME)]);
		await judgeBases(stage, manifest);
		await commitAll(stage, manifest);
		await rm(folder, {recursive: true});
	},
	only: STRUCK_BY,
	sample: STRUCK_BY,
	// Once the guest writes to the overlays, QEMU would have to be started from these.
	within: {'kill-qemu': /^qmp (?:<- (?:migrate|MIGRATION active|query-migrate)|-> migrate) #/},
	at: {
		'kill-tool': [
			/^qmp <- migrate #1$/,
			/^qmp <- MIGRATION pre-switchover #1$/,
			/^qmp <- migrate-continue #1$/,
			/^host rm run\.json #1$/,
		],
		'kill-with-guard': [/^qmp <- MIGRATION pre-switchover #1$/, /^qmp <- MIGRATION completed #1$/],
		'kill-all': [/^qmp <- transaction #1$/],
		'hang-tool': [/^qmp -> transaction #1$/],
		'kill-recovery': [/^qmp <- MIGRATION pre-switchover #1$/],
		'kill-qemu': [/^qmp <- migrate #1$/],
		'cut-monitor': [/^qmp <- MIGRATION pre-switchover #1$/, /^qmp <- migrate-continue #1$/],
		...Object.fromEntries(
			['target-full', 'target-eio', 'target-readonly', 'target-stalled'].map(name => [name, [/^qmp <- migrate #1$/]]),
		),
	},
};
