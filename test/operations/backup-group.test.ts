import {randomInt} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, tap, toArray} from 'rxjs';
import {beforeEach, expect, test} from 'vitest';
import {backupGroup, type GroupBackupMessage} from '../../src/operations/backup-group.ts';
import type {BackupRequest} from '../../src/operations/backup-messages.ts';
import {CancelledError} from '../../src/errors.ts';
import {takeLock} from '../../src/host/lock.ts';
import {list} from '../../src/operations/list.ts';
import {type BareVm, MIB, ownRuntimeFolder, startVm} from '../jobs/bare-vm.ts';
import {expectNothingLeft, requestFor} from '../jobs/backups.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {differences} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

/** Each with a disk of its own, all of whose bytes are known. */
async function startTwo(): Promise<Map<string, BareVm>> {
	const disk = {name: 'vda', sizeBytes: 8 * MIB, fill: 0x11, format: 'qcow2'} as const;
	const [web, db] = await Promise.all([startVm([disk], {name: 'web'}), startVm([disk], {name: 'db'})]);
	return new Map([
		['web', web],
		['db', db],
	]);
}

interface Taking {
	readonly rest?: Partial<BackupRequest>;
	readonly onMessage?: (message: GroupBackupMessage) => unknown;
	readonly signal?: AbortSignal;
}

async function take(
	vms: ReadonlyMap<string, BareVm>,
	repository: string,
	{rest, onMessage, signal = new AbortController().signal}: Taking = {},
): Promise<GroupBackupMessage[]> {
	const members = new Map(Array.from(vms, ([name, vm]) => [name, requestFor(vm, repository, rest)]));
	const acts: unknown[] = [];
	try {
		return await lastValueFrom(
			backupGroup({group: 'shop', members, signal}).pipe(
				tap(message => acts.push(onMessage?.(message))),
				toArray(),
			),
		);
	} finally {
		await Promise.all(acts);
	}
}

test('each VM gets a point, all of which know of one another and of the skew, and hold what its disks held', async () => {
	const vms = await startTwo();
	const repository = temporaryFolder();
	const held = Buffer.alloc(8 * MIB, 0x11);
	for (let nth = 0; nth < 2; nth++) {
		const at = randomInt(64) * 65_536;
		for (const vm of vms.values()) await vm.write('vda', 0x20 + nth, at, 65_536);
		held.fill(0x20 + nth, at, at + 65_536);
		const messages = await take(vms, repository, {
			onMessage: message => (message.kind === 'cut' ? vms.get(message.of)!.write('vda', 0xee, 0, 4096) : undefined),
		});
		const last = messages.at(-1);
		if (last?.kind !== 'group-finished') throw new Error(`it ended with ${last?.kind ?? 'nothing'}`);
		const {group, points} = last;
		expect(group).toMatchObject({name: 'shop', members: [{vm: 'web'}, {vm: 'db'}]});
		const {skewSeconds, members} = group;
		expect(skewSeconds).toBeGreaterThan(0);
		expect(Math.min(...members.map(member => member.cutBeganSeconds))).toBe(0);
		expect(Math.max(...members.map(member => member.cutEndedSeconds))).toBe(skewSeconds);
		expect(points.map(({manifest}) => manifest.group)).toEqual([group, group]);
		expect(members.map(({vm, point}) => `${vm}@${point}`).sort()).toEqual(
			points.map(({manifest}) => `${manifest.vm}@${manifest.id}`).sort(),
		);
		for (const {folder, manifest} of points) {
			expect(manifest.kind).toBe(nth === 0 ? 'full' : 'incremental');
			expect(differences(path.join(folder, 'vda.qcow2'), held)).toEqual([]);
		}
		held.fill(0xee, 0, 4096);
	}
	for (const vm of vms.values()) await expectNothingLeft(vm, repository);
});

test('where the QEMU of one is killed, the others are undone, and no point appears', async () => {
	const vms = await startTwo();
	const repository = temporaryFolder();
	const [web, db] = [vms.get('web')!, vms.get('db')!];
	const ended = take(vms, repository, {
		rest: {speedBytesPerSecond: 2 * MIB},
		onMessage: message => (message.kind === 'cut' && message.of === 'db' ? db.kill() : undefined),
	});
	await expect(ended).rejects.toMatchObject({message: expect.stringMatching(/^db: /) as string});
	expect(await points(repository)).toEqual([]);
	await expectNothingLeft(web, repository);
});

test('one that is cancelled leaves nothing of any VM', async () => {
	const vms = await startTwo();
	const repository = temporaryFolder();
	const cancel = new AbortController();
	const ended = take(vms, repository, {
		rest: {speedBytesPerSecond: 2 * MIB},
		signal: cancel.signal,
		onMessage: message => {
			if (message.kind === 'cut') cancel.abort(new CancelledError());
		},
	});
	await expect(ended).rejects.toMatchObject({code: 'CANCELLED', message: 'cancelled'});
	expect(await points(repository)).toEqual([]);
	for (const vm of vms.values()) await expectNothingLeft(vm, repository);
});

test('where another run holds one of the VMs nothing is begun', async () => {
	const vms = await startTwo();
	const repository = temporaryFolder();
	const holder = await takeLock(`vm ${(await vms.get('db')!.qmp.execute('query-uuid')).UUID}`, 'it', {
		...{pid: process.pid, run: 'abcdef'},
		doing: 'something else',
	});
	try {
		await expect(take(vms, repository)).rejects.toMatchObject({
			code: 'LOCKED',
			message: expect.stringMatching(/^db: VM db is in use by something else/) as string,
		});
	} finally {
		await holder.release();
	}
	for (const vm of vms.values()) await expectNothingLeft(vm, repository);
});

test('a point whose group is not all there says so', async () => {
	const vms = await startTwo();
	const repository = temporaryFolder();
	const spoilt = path.join(repository, 'vms/db');
	const ended = take(vms, repository, {
		onMessage: message => {
			if (message.kind !== 'settling' || message.of !== 'db') return;
			// As if the run had been killed between the two renames.
			const [partial = ''] = fs.readdirSync(spoilt);
			fs.mkdirSync(path.join(spoilt, partial.slice(1, -'.partial'.length)));
		},
	});
	await expect(ended).rejects.toThrow(/^db: .* has appeared meanwhile$/);
	const [web] = await points(repository, 'web');
	expect(web?.missing).toMatchObject([{vm: 'db'}]);
	for (const vm of vms.values()) await expectNothingLeft(vm, repository);
});

async function points(repository: string, vm?: string) {
	const messages = await lastValueFrom(list({repository, vm}).pipe(toArray()), {defaultValue: []});
	return messages.flatMap(message => (message.kind === 'point' ? [message] : []));
}
