import {createHash} from 'node:crypto';
import {readFile, rm} from 'node:fs/promises';
import {join} from 'node:path';
import type {PointManifest} from '../../../src/repository/manifest.ts';
import {output} from '../../guest/command.ts';
import {pointFolders, removePoints} from '../harness/points.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage} from '../harness/stage.ts';
import type {Place} from '../harness/steps.ts';

const BYTES = 16 << 20;

const KILLED_AT: readonly Place[] = [
	/^images <- blockdev-add #2$/,
	/^images <- transaction #2$/,
	/^images <- block-job-set-speed /,
	/^host rename \.POINT/,
	/^images <- transaction #4$/,
	/^images <- blockdev-reopen /,
];
const STRUCK_AT: readonly Place[] = [/^images <- block-job-set-speed /, /^daemon -> blockdev-reopen /];

/** An increment of a VM that is off, whose image is one that the guest has nothing to do with. */
export function offline(): Scenario {
	let image = '';
	/** What the image held at the full, and what it holds since. */
	let held: [full: string, since: string] = ['', ''];
	const args = (stage: Stage): string[] => [
		...['backup', stage.guest.name, '--image', `vda=${image},format=qcow2`, '-r', stage.target],
	];
	return {
		name: 'backup-offline',
		arrange: async stage => {
			await removePoints(stage, stage.target);
			if (image !== '') await rm(image, {force: true});
			image = stage.new('off');
			await output('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(BYTES)]);
			await write(image, 'write -P 0x11 0 8M');
			await stage.succeed([...args(stage), '--kind', 'full']);
			const full = await sumOf(stage, image);
			await write(image, 'write -P 0x22 1M 6M');
			held = [full, await sumOf(stage, image)];
		},
		repository: stage => stage.target,
		args: (stage, {slow}) => [...args(stage), ...(slow ? ['--speed', '2M'] : [])],
		unfinished: stage => pointFolders(stage.target, stage.guest.name, 'hidden'),
		judge: async (stage, ended) => {
			await output('qemu-img', ['check', '-q', '-f', 'qcow2', image]);
			if ((await sumOf(stage, image)) !== held[1]) throw new Error('the image is not what it was');
			const folders = (await pointFolders(stage.target, stage.guest.name, 'visible')).toSorted();
			for (const [index, folder] of folders.entries()) {
				const sum = await sumOf(stage, join(folder, 'vda.qcow2'));
				if (sum !== held[index === 0 ? 0 : 1]) throw new Error(`${folder} is not what the image held`);
			}
			await stage.succeed(['verify', stage.guest.name, '-r', stage.target, '--deep']);
			if (!ended) return;
			await requireNewest(folders);
			await removePoints(stage, stage.target);
		},
		only: [
			...['kill-tool', 'kill-with-guard', 'kill-all', 'kill-recovery'],
			...['target-full', 'target-eio', 'target-readonly', 'target-stalled'],
		],
		at: {
			'kill-tool': KILLED_AT,
			'kill-with-guard': KILLED_AT,
			'kill-all': KILLED_AT,
			'kill-recovery': [/^images <- transaction #2$/],
			'target-full': STRUCK_AT,
			'target-eio': STRUCK_AT,
			'target-readonly': STRUCK_AT,
			'target-stalled': STRUCK_AT,
		},
	};
}

async function write(image: string, command: string): Promise<void> {
	await output('qemu-io', ['-f', 'qcow2', '-c', command, image]);
}

/** Of what the guest would see. */
async function sumOf(stage: Stage, image: string): Promise<string> {
	const raw = stage.new('off-raw');
	await output('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', image, raw]);
	const sum = createHash('sha256')
		.update(await readFile(raw))
		.digest('hex');
	await rm(raw);
	return sum;
}

/** It goes by a bitmap, or says why not. */
async function requireNewest(folders: readonly string[]): Promise<void> {
	const newest = folders.at(-1);
	if (newest === undefined || folders.length < 2) throw new Error('no further point is there');
	const {disks, consistency} = JSON.parse(await readFile(join(newest, 'point.json'), 'utf8')) as PointManifest;
	if (consistency !== 'offline') throw new Error(`it is ${consistency}`);
	for (const {name, kind, reason} of disks) {
		if (kind !== 'incremental' && reason === null) throw new Error(`${name} is ${kind}, and does not say why`);
	}
}
