import {expect, test, vi} from 'vitest';
import {Rendezvous} from '../../src/rx/rendezvous.ts';

function gather(...members: string[]) {
	const rendezvous = new Rendezvous(members);
	const log: string[] = [];
	const go = async (member: string, ...stages: string[]): Promise<void> => {
		for (const stage of stages) {
			log.push(`${member} comes to ${stage}`);
			await rendezvous.arrive(member, stage);
			log.push(`${member} leaves ${stage}`);
		}
	};
	return {rendezvous, log, go};
}

test('nobody leaves a stage before all have come to it', async () => {
	const {log, go} = gather('a', 'b', 'c');
	await Promise.all([go('a', 'one', 'two'), go('b', 'one', 'two'), go('c', 'one', 'two')]);
	for (const stage of ['one', 'two']) {
		const comings = log.flatMap((line, at) => (line.endsWith(`comes to ${stage}`) ? [at] : []));
		const leavings = log.flatMap((line, at) => (line.endsWith(`leaves ${stage}`) ? [at] : []));
		expect(comings).toHaveLength(3);
		expect(Math.max(...comings)).toBeLessThan(Math.min(...leavings));
	}
});

test('one that fails fails those that wait, and those that come later, all with the first reason', async () => {
	const {rendezvous, go} = gather('a', 'b', 'c');
	const waiting = go('a', 'one');
	const reason = new Error('b has failed');
	rendezvous.fail(reason);
	rendezvous.fail(new Error('and then something else'));
	await expect(waiting).rejects.toBe(reason);
	await expect(go('c', 'one')).rejects.toBe(reason);
	await expect(go('c', 'a later one')).rejects.toBe(reason);
	expect(rendezvous.signal.reason).toBe(reason);
});

test('who has waited too long fails all, and says who was missing', async () => {
	vi.useFakeTimers();
	try {
		const {rendezvous} = gather('a', 'b', 'c');
		const atMost = {ms: 1_000, late: (missing: readonly string[]) => new Error(`late: ${missing.join()}`)};
		const waits = [rendezvous.arrive('a', 'one', atMost), rendezvous.arrive('b', 'one')];
		const ends = Promise.allSettled(waits);
		await vi.advanceTimersByTimeAsync(999);
		expect(rendezvous.signal.aborted).toBe(false);
		await vi.advanceTimersByTimeAsync(1);
		expect((await ends).map(end => (end as PromiseRejectedResult).reason as Error)).toEqual([
			new Error('late: c'),
			new Error('late: c'),
		]);
		await expect(rendezvous.arrive('c', 'one')).rejects.toThrow('late: c');
	} finally {
		vi.useRealTimers();
	}
});

test('the bound of one that left in time fails nobody', async () => {
	vi.useFakeTimers();
	try {
		const {rendezvous} = gather('a', 'b');
		const atMost = {ms: 1_000, late: () => new Error('late')};
		await Promise.all([rendezvous.arrive('a', 'one', atMost), rendezvous.arrive('b', 'one', atMost)]);
		await vi.advanceTimersByTimeAsync(2_000);
		expect(rendezvous.signal.aborted).toBe(false);
		expect(vi.getTimerCount()).toBe(0);
	} finally {
		vi.useRealTimers();
	}
});
