import {expect, onTestFinished, test} from 'vitest';
import {capabilitiesOf} from '../../src/block/probe.ts';
import {type Guest, type GuestOptions, startGuest} from '../guest/guest.ts';
import {explainWrites} from '../guest/oracle.ts';
import {eventually, inside, openQmp} from '../jobs/bare-vm.ts';
import {isThorough} from '../support/thorough.ts';
import {fleecing, removedFiles} from './fleecing.ts';

const CUTS = isThorough ? 10 : 4;

async function guestWith(options: GuestOptions): Promise<Guest> {
	const guest = await startGuest({raw: 'writing', stamps: 'none', bytes: 8 << 20, rawBytes: 8 << 20, ...options});
	onTestFinished(guest.kill);
	return guest;
}

async function goesOn(guest: Guest): Promise<void> {
	const {count} = await guest.rawStats();
	await eventually(async () => (await guest.rawStats()).count > count + 10);
}

test.each([
	{what: 'gates', by: 'gates', iothreads: 0, disks: 'blockdev', format: 'raw'},
	{what: 'a pause', by: 'pause', iothreads: 0, disks: 'plain', format: 'raw'},
	{what: 'what fits I/O threads', by: undefined, iothreads: 2, disks: 'blockdev', format: 'qcow2'},
] as const)(
	'a guest that writes to two disks in turn is cut at one instant, by $what',
	{timeout: 300_000},
	async kind => {
		const guest = await guestWith(kind);
		const qmp = await openQmp(guest.qmpPath);
		const {schema} = await fleecing(qmp);
		const canAdd = capabilitiesOf(schema, qmp.version)['pull-with-iothreads'].available;
		const by = kind.by ?? (canAdd ? 'gates' : 'pause');
		const {prepare, copyAll, copies} = await fleecing(qmp, {by, running: true});
		const before = await inside(qmp);
		for (let cuts = 0; cuts < CUTS; cuts++) {
			const cut = await prepare();
			const {count: written} = await guest.rawStats();
			let writtenThen = 0;
			await copyAll(cut, {
				onceCut: async () => {
					({count: writtenThen} = await guest.rawStats());
					await goesOn(guest);
				},
			});
			const verdict = await explainWrites(copies.slice(-2));
			expect(verdict).toMatchObject({sound: true});
			expect(verdict.writes).toBeGreaterThanOrEqual(written);
			// One more may be under way that is not counted yet.
			expect(verdict.writes).toBeLessThanOrEqual(writtenThen + 1);
			expect(await inside(qmp)).toEqual(before);
			await goesOn(guest);
		}
		expect(await guest.rawStop()).toMatchObject({errors: 0});
		expect(removedFiles(guest.pid)).toEqual([]);
	},
);
