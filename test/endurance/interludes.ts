import {constants} from 'node:fs';
import {copyFile, rename, rm, truncate, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {type Execute, onMonitor} from '../faults/harness/qemu-state.ts';
import type {Ledger} from './ledger.ts';
import {manifestOf, visiblePoints as visible, vmFolder} from './points.ts';
import {outcomeOf, Program} from './program.ts';
import type {Heal, Stage} from './stage.ts';
import type {Tally} from './tally.ts';
import type {Ending} from './vm.ts';

/** What happens between two runs. */
export interface Interlude {
	readonly name: string;
	readonly play: (stage: Stage, ledger: Ledger, tally: Tally) => Promise<Aftermath | undefined>;
}

/** What it means for the next run. */
export interface Aftermath {
	/** After that. */
	readonly heal?: Heal;
	/** It may be refused. */
	readonly mayFail?: boolean;
	/** Nothing may be based on what that point has of these disks. */
	readonly damaged?: {readonly id: string; readonly disks: readonly string[]};
}

const endVm =
	(how: Ending) =>
	async ({vm}: Stage) => {
		await vm.end(how);
		await vm.startAgain(how);
		return undefined;
	};

function newestFolder({repository, vm}: Stage, ledger: Ledger): {id: string; folder: string} | undefined {
	const id = ledger.known(repository).at(-1);
	return id === undefined ? undefined : {id, folder: join(vmFolder(repository, vm.name), id)};
}

/** An image is cut short or has gone, or the manifest is nonsense, until the next run is over. */
async function damage(stage: Stage, ledger: Ledger): Promise<Aftermath | undefined> {
	const newest = newestFolder(stage, ledger);
	if (!newest) return undefined;
	const {id, folder} = newest;
	const {disks} = await manifestOf(folder);
	const how = stage.random.pick(['short', 'gone', 'nonsense']);
	const one = disks[stage.random.whole(0, disks.length - 1)]!;
	const hit = how === 'nonsense' ? disks : [one];
	const file = join(folder, how === 'nonsense' ? 'point.json' : one.file);
	const kept = join(stage.disk.folder, 'kept');
	await copyFile(file, kept, constants.COPYFILE_FICLONE);
	if (how === 'short') await truncate(file, stage.random.whole(0, 100_000));
	else if (how === 'gone') await rm(file);
	else await writeFile(file, '{"format": 1}');
	return {heal: () => rename(kept, file), damaged: {id, disks: hit.map(({name}) => name)}};
}

async function removeNewest(stage: Stage, ledger: Ledger): Promise<undefined> {
	const newest = newestFolder(stage, ledger);
	if (!newest) return;
	await rm(newest.folder, {recursive: true});
	ledger.forget(stage.repository, newest.id);
}

interface Bitmap {
	readonly node: string;
	readonly name: string;
}

async function ourBitmaps(execute: Execute): Promise<Bitmap[]> {
	const nodes = (await execute('query-named-block-nodes', {flat: true})) as {
		'node-name': string;
		'dirty-bitmaps'?: {name?: string; busy: boolean}[];
	}[];
	return nodes.flatMap(({'node-name': node, 'dirty-bitmaps': bitmaps = []}) =>
		bitmaps.flatMap(({name, busy}) => (name?.startsWith('qsc-') === true && !busy ? [{node, name}] : [])),
	);
}

/** Somebody who takes ours for his own. */
const onOurBitmap =
	(command: string) =>
	async ({vm, random}: Stage) => {
		await onMonitor(vm.guest, async execute => {
			const bitmaps = await ourBitmaps(execute);
			const bitmap = bitmaps[random.whole(0, Math.max(0, bitmaps.length - 1))];
			// It may just be in use by what a killed run has left.
			if (bitmap) await execute(command, bitmap).catch(() => undefined);
		});
		return undefined;
	};

/** Where the VM has ended meanwhile they have gone with it. */
const whereItIsStill = ({vm}: Stage, heal: (execute: Execute) => Promise<void>): Heal => {
	const {guest} = vm;
	return async () => {
		if (vm.runs(guest)) await onMonitor(guest, heal);
	};
};

async function foreignBitmap(stage: Stage): Promise<Aftermath> {
	const bitmap: Bitmap = {node: 'disk-vdc', name: `theirs-${stage.random.whole(0, 1e9)}`};
	await onMonitor(stage.vm.guest, async execute => {
		await execute('block-dirty-bitmap-add', {...bitmap, persistent: stage.random.chance(0.5)});
	});
	return {
		heal: whereItIsStill(stage, async execute => {
			await execute('block-dirty-bitmap-remove', bitmap);
		}),
	};
}

async function foreignJob(stage: Stage): Promise<Aftermath> {
	const [node, job] = ['theirs-target', 'theirs'];
	const command = stage.random.pick(['blockdev-mirror', 'blockdev-backup']);
	await onMonitor(stage.vm.guest, async execute => {
		await execute('blockdev-add', {'driver': 'null-co', 'node-name': node, 'size': 64 << 20, 'read-zeroes': true});
		const args = {'job-id': job, 'device': 'disk-vdc', 'target': node, 'sync': 'full', 'speed': 1 << 20};
		// Where a killed run has left its nodes, it has to wait until they have gone.
		await execute(command, args).catch(() => undefined);
	});
	return {
		mayFail: true,
		heal: whereItIsStill(stage, async execute => {
			const isThere = async (): Promise<boolean> =>
				((await execute('query-jobs')) as {id: string}[]).some(({id}) => id === job);
			// It may have come to its end by itself, and an end takes a moment.
			if (await isThere()) await execute('block-job-cancel', {device: job, force: true}).catch(() => undefined);
			while (await isThere()) await delay(20);
			await execute('blockdev-del', {'node-name': node});
		}),
	};
}

async function otherRepository(stage: Stage, ledger: Ledger, tally: Tally): Promise<undefined> {
	const {vm, second, runtimeDir} = stage;
	const least = await vm.leastWrites();
	const sockets = ['--qmp', vm.guest.qmpPath, '--agent', vm.guest.agentPath];
	const ended = await new Program(['backup', ...sockets, '-r', second], runtimeDir).ended;
	if (ended.code !== 0) tally.find(`the backup into the second repository: ${outcomeOf(ended)}`);
	const appeared = await ledger.takeStock(second, least);
	for (let nth = 0; nth < appeared.length; nth++) tally.count('points', 'of the second repository');
}

const prune =
	(dies: boolean) =>
	async ({vm, repository, runtimeDir, random}: Stage, ledger: Ledger, tally: Tally) => {
		const keep = random.whole(5, 12);
		const program = new Program(['prune', vm.name, '-r', repository, '--keep-last', String(keep)], runtimeDir);
		const timer = setTimeout(
			() => {
				if (dies) program.signal('SIGKILL');
			},
			random.whole(300, 2500),
		);
		const ended = await program.ended;
		clearTimeout(timer);
		if (ended.code !== 0 && !dies) tally.find(`prune: ${outcomeOf(ended)}`);
		const there = new Set(await visible(repository, vm.name));
		const due = ledger.known(repository).slice(0, -keep);
		for (const id of due) {
			if (there.has(id) && ended.code === 0) tally.find(`prune has left ${id}`);
			if (there.has(id)) continue;
			ledger.forget(repository, id);
			tally.count('points', 'pruned');
		}
		return undefined;
	};

export const INTERLUDES: readonly (readonly [times: number, interlude: Interlude | undefined])[] = [
	[10, undefined],
	[2, {name: 'QEMU is killed and started again', play: endVm('kill')}],
	[3, {name: 'QEMU is ended in good order and started again', play: endVm('quit')}],
	[3, {name: 'the newest point is damaged', play: damage}],
	[2, {name: 'the newest point is removed (rm)', play: removeNewest}],
	[1, {name: 'another program removes a bitmap of ours', play: onOurBitmap('block-dirty-bitmap-remove')}],
	[1, {name: 'another program disables a bitmap of ours', play: onOurBitmap('block-dirty-bitmap-disable')}],
	[2, {name: 'another program has a bitmap of its own', play: foreignBitmap}],
	[2, {name: 'another program has a job', play: foreignJob}],
	[3, {name: 'a second repository is backed up to', play: otherRepository}],
	[2, {name: 'old points are pruned', play: prune(false)}],
	[2, {name: 'old points are pruned, and that is killed', play: prune(true)}],
];
