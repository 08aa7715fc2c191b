import {createHash} from 'node:crypto';
import {cp, mkdir, readdir, readFile, rm} from 'node:fs/promises';
import {basename, join} from 'node:path';
import {output} from '../../guest/command.ts';
import {judgeDisks, pointFolders} from '../harness/points.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage} from '../harness/stage.ts';

const INCREMENTS = 3;
const KEPT = 2;

/** The SHA-256 of each disk, by the point's id. */
type Held = ReadonlyMap<string, ReadonlyMap<string, string>>;

/** A prune of a chain, by which its full is merged into what lies on it. The guest has no part in it. */
export function prune(): Scenario {
	let held: Held = new Map();
	return {
		name: 'prune',
		prepare: async stage => {
			const take = ['backup', ...stage.sockets, '-r', stage.repository, '--quiesce', 'require', '--layout', 'chain'];
			for (let taken = 0; taken < 1 + INCREMENTS; taken++) await stage.succeed(take);
			held = await readHeld(stage);
		},
		arrange: async stage => {
			await rm(stage.target, {recursive: true, force: true});
			await cp(stage.repository, stage.target, {recursive: true, preserveTimestamps: true});
			await output('sync', ['-f', stage.target]);
		},
		repository: stage => stage.target,
		args: stage => ['prune', stage.guest.name, '-r', stage.target, '--keep-last', String(KEPT)],
		unfinished: () => Promise.resolve([]),
		judge: async (stage, ended) => {
			const visible = await visiblePoints(stage, stage.target);
			const kept = [...held.keys()].slice(-KEPT);
			const missing = kept.filter(id => !visible.includes(id));
			if (missing.length > 0) throw new Error(`gone are ${missing.join(', ')}`);
			for (const id of visible) {
				requireSame(id, 'qemu-img', await takeSums(await readPlainly(stage, id)), held);
				requireSame(id, 'quiesce restore', await takeSums(await restore(stage, stage.target, id)), held);
			}
			await stage.succeed(['verify', stage.guest.name, '-r', stage.target, '--deep']);
			if (!ended) return;
			const left = [...visible.filter(id => !kept.includes(id)), ...(await leftIn(stage))];
			if (left.length > 0) throw new Error(`still there are ${left.join(', ')}`);
		},
		mayLeave: /^unfinished point: .*\.removed$/,
		only: [
			...['kill-tool', 'kill-all', 'kill-commit'],
			...['target-full', 'target-eio', 'target-readonly', 'target-stalled'],
		],
		at: {
			'kill-tool': [
				/^host rename vda\.qcow2 #1/,
				/^host rename point\.json #2/,
				/^host rename \.SHA256SUMS\.new #5/,
				/^host rename \.vda\.merging\.new #2/,
				/^host rename POINT #1/,
				/^host rename \.vda\.hashes\.new #1/,
				/^host rename \.point\.json\.new #1/,
				/^host rm vda\.merging #1/,
				/^host rename vdd\.qcow2 #2/,
				/^host rename \.expired\.json\.new #1/,
			],
		},
	};
}

/** By their ids, the oldest first. Those that are to go have no `point.json` any more. */
async function visiblePoints(stage: Stage, repository: string): Promise<string[]> {
	const visible: string[] = [];
	for (const folder of await pointFolders(repository, stage.guest.name, 'visible')) {
		if ((await readdir(folder)).includes('point.json')) visible.push(basename(folder));
	}
	return visible.toSorted();
}

async function readHeld(stage: Stage): Promise<Held> {
	const held = new Map<string, ReadonlyMap<string, string>>();
	for (const id of await visiblePoints(stage, stage.repository)) {
		const restored = await restore(stage, stage.repository, id);
		await judgeDisks(stage, restored, true);
		held.set(id, await takeSums(restored));
	}
	return held;
}

async function restore(stage: Stage, repository: string, id: string): Promise<string> {
	const to = stage.new('restored');
	await stage.succeed(['restore', `${stage.guest.name}@${id}`, '-r', repository, '--to', to, '--format', 'raw']);
	return to;
}

async function readPlainly(stage: Stage, id: string): Promise<string> {
	const [from, to] = [join(stage.target, 'vms', stage.guest.name, id), stage.new('plain')];
	await mkdir(to);
	for (const name of (await readdir(from)).filter(file => file.endsWith('.qcow2'))) {
		const raw = join(to, `${basename(name, '.qcow2')}.raw`);
		await output('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', join(from, name), raw]);
	}
	return to;
}

/** By the disks' names; the folder of raw files goes. */
async function takeSums(folder: string): Promise<ReadonlyMap<string, string>> {
	const sums = new Map<string, string>();
	for (const name of (await readdir(folder)).filter(file => file.endsWith('.raw'))) {
		const hash = createHash('sha256').update(await readFile(join(folder, name)));
		sums.set(basename(name, '.raw'), hash.digest('hex'));
	}
	await rm(folder, {recursive: true});
	return sums;
}

function requireSame(id: string, by: string, found: ReadonlyMap<string, string>, held: Held): void {
	const expected = held.get(id);
	const wrong = [...(expected ?? [])].filter(([disk, sum]) => found.get(disk) !== sum).map(([disk]) => disk);
	if (expected?.size !== found.size || wrong.length > 0) {
		throw new Error(`${id} is not what it was, by ${by}: ${wrong.join(', ')}`);
	}
}

/** Hidden files and folders, expired points, notes of merges. */
async function leftIn(stage: Stage): Promise<string[]> {
	const names = await readdir(join(stage.target, 'vms', stage.guest.name), {recursive: true});
	return names.filter(name => /(^|\/)\.|(^|\/)expired\.json$|\.merging$/.test(name));
}
