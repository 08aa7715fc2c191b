import {existsSync} from 'node:fs';
import {mkdir, readFile, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import type {SnapshotManifest} from '../../../src/snapshots/manifest.ts';
import {output} from '../../guest/command.ts';
import {judgeDisks, removePoints} from '../harness/points.ts';
import {onMonitor} from '../harness/qemu-state.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage} from '../harness/stage.ts';

const NAME = 'struck';

/** A snapshot with overlays of all disks. What is judged is taken away again, by commits with QEMU's own commands. */
export const snapshot: Scenario = {
	name: 'snapshot',
	arrange: async stage => {
		if (existsSync(join(stage.target, 'repository.json'))) return;
		// The recovery is told of a repository, which has nothing to do with it.
		await stage.succeed(['backup', ...stage.sockets, '-r', stage.target, '--quiesce', 'never', '--disk', 'vda']);
		await removePoints(stage, stage.target);
	},
	repository: stage => stage.target,
	args: stage => ['snapshot', 'create', ...stage.sockets, NAME, '--quiesce', 'try'],
	unfinished: () => Promise.resolve([]),
	judge: async (stage, ended) => {
		const folder = join(stage.folder, `${stage.guest.name}.snapshots`);
		if (existsSync(join(folder, `.${NAME}.partial`))) throw new Error('an unfinished snapshot is left');
		const manifest = await manifestIn(join(folder, NAME));
		if (!manifest) {
			if (ended) throw new Error('the snapshot that was taken is not there');
			return;
		}
		await judgeBases(stage, manifest);
		await commitAll(stage, manifest);
		await rm(folder, {recursive: true});
	},
	// What the cut has made is there to stay.
	mayLeave: /^(?:now|no more): (?:node|device|block-(?:backend|driver)) /,
	only: ['kill-tool', 'kill-with-guard', 'kill-all', 'kill-recovery'],
	sample: ['kill-tool'],
	at: {
		'kill-tool': [/^qmp <- blockdev-add #4/, /^qmp -> transaction /, /^qmp <- transaction /, /^host rm run\.json #1/],
	},
};

export async function manifestIn(folder: string): Promise<SnapshotManifest | undefined> {
	const file = join(folder, 'snapshot.json');
	return existsSync(file) ? (JSON.parse(await readFile(file, 'utf8')) as SnapshotManifest) : undefined;
}

/** The bases are what the guest's disks were at one instant. */
export async function judgeBases(stage: Stage, {disks, consistency}: SnapshotManifest): Promise<void> {
	const to = stage.new('bases');
	await mkdir(to);
	for (const {name, base} of disks) {
		await output('qemu-img', ['convert', '-f', base.format, '-O', 'raw', base.file, join(to, `${name}.raw`)]);
	}
	await judgeDisks(stage, to, consistency === 'quiesced');
	await rm(to, {recursive: true});
}

/** Takes the overlays away again, with QEMU's own commands. */
export async function commitAll(stage: Stage, {disks}: SnapshotManifest): Promise<void> {
	await onMonitor(stage.guest, async execute => {
		const untilIs = async (id: string, wanted: string | undefined): Promise<void> => {
			for (;;) {
				const jobs = (await execute('query-jobs')) as readonly {readonly id: string; readonly status: string}[];
				if (jobs.find(job => job.id === id)?.status === wanted) return;
				await delay(20);
			}
		};
		for (const {overlay} of disks) {
			const id = `judge-${overlay!.node}`;
			await execute('block-commit', {'job-id': id, 'device': overlay!.node});
			await untilIs(id, 'ready');
			await execute('job-complete', {id});
			await untilIs(id, undefined);
			await execute('blockdev-del', {'node-name': overlay!.node});
			await rm(overlay!.file);
		}
	});
}
