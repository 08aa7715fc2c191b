import {afterAll, beforeAll, describe, expect, test} from 'vitest';
import {GuestAgent} from '../../src/guest-agent/agent.ts';
import {jsonLines, lastOf, runQuiesce, runtimeDir} from '../cli/run-quiesce.ts';
import {
	backupArgs,
	expectNothingLeft,
	expectThawed,
	type Folder,
	guestName,
	isFrozen,
	newRepository,
	pointsIn,
	takePoint,
	temporaryFolder,
	textsOf,
} from '../cli/scene.ts';
import {type Guest, startGuest} from '../guest/guest.ts';
import {killWithGuards} from './harness/processes.ts';
import {Tool} from './harness/tool.ts';

let folder: Folder;
let repository: string;
let guest: Guest;

beforeAll(async () => {
	folder = await temporaryFolder();
	repository = await newRepository(folder);
	guest = await startGuest({name: guestName('agent'), bytes: 24 << 20});
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

/** Under `require` there is no point, and nothing is left; under `try` there is one, which says why it is less. */
async function expectRefusedOrDegraded(reason: RegExp): Promise<void> {
	const before = await pointsIn(repository, guest.name);
	const refused = await runQuiesce(backupArgs(guest, repository, '--quiesce', 'require', '--json'));
	expect(refused.code).toBe(24);
	expect(lastOf(refused)).toMatchObject({message_type: 'exit_error', code: 'AGENT', exit_code: 24});
	expect(lastOf(refused)['message']).toMatch(reason);
	await expectNothingLeft(guest, repository);
	expect(await pointsIn(repository, guest.name)).toEqual(before);

	const point = await takePoint(backupArgs(guest, repository, '--quiesce', 'try'));
	expect(point.manifest).toMatchObject({consistency: 'crash-consistent', freeze: null});
	expect(point.manifest.warnings.join('\n')).toMatch(reason);
	const cut = jsonLines(point.ended).find(({message_type}) => message_type === 'cut');
	expect([...textsOf(point.ended, 'warning'), String(cut?.['degraded'])].join('\n')).toMatch(reason);
	await expectNothingLeft(guest, repository);
}

/** A backup that is killed with its guard, so that the guest stays frozen. */
async function killWhileFrozen(): Promise<void> {
	const tool = new Tool(backupArgs(guest, repository, '--transcript', folder.new('transcript')), {
		env: {QUIESCE_RUNTIME_DIR: runtimeDir},
		steps: folder.new('steps'),
		stopAt: 'agent <- guest-fsfreeze-freeze #1',
	});
	expect(await tool.stopped).toBe(true);
	await killWithGuards({runtimeDir}, tool);
}

test('an agent that is stopped or hangs is waited for no longer than a moment', async () => {
	await guest.read('kill -STOP $(pidof qemu-ga)');
	try {
		await expectRefusedOrDegraded(/no guest agent answers/);
	} finally {
		await guest.read('kill -CONT $(pidof qemu-ga)');
	}
	const point = await takePoint(backupArgs(guest, repository, '--quiesce', 'require'));
	expect(point.manifest.consistency).toBe('quiesced');
});

test('a hook that fails prevents the freeze, and the guest is thawed', async () => {
	await guest.read('echo fail >/run/hook');
	try {
		await expectRefusedOrDegraded(/guest-fsfreeze-freeze/);
		await expectThawed(guest, 2_000);
	} finally {
		await guest.read('echo ok >/run/hook');
	}
});

test('a hook that takes too long ends the freeze, and the guest is thawed when it comes to its end', async () => {
	await guest.read('echo slow:3 >/run/hook');
	try {
		const ended = await runQuiesce(
			backupArgs(guest, repository, '--quiesce', 'require', '--freeze-timeout', '1s', '--json'),
		);
		expect(ended.code).toBe(24);
		expect(lastOf(ended)['message']).toMatch(/did not answer guest-fsfreeze-freeze within 1 s/);
		await expectThawed(guest, 2_000);
	} finally {
		await guest.read('echo ok >/run/hook');
	}
	await expectNothingLeft(guest, repository);
});

test('a hook that fails at the thaw casts doubt on the freeze', async () => {
	await guest.read('echo thaw-fail >/run/hook');
	try {
		await expectThawed(guest, 2_000);
		const refused = await runQuiesce(backupArgs(guest, repository, '--quiesce', 'require', '--json'));
		expect(refused.code).toBe(24);
		expect(lastOf(refused)['message']).toMatch(/the freeze did not hold/);
		await expectThawed(guest, 2_000);
		const point = await takePoint(backupArgs(guest, repository));
		expect(point.manifest.consistency).toBe('crash-consistent');
	} finally {
		await guest.read('echo ok >/run/hook');
	}
	await expectNothingLeft(guest, repository);
});

describe('a guest that is frozen already', () => {
	test('by a run that was killed with its guard is thawed, which is said', async () => {
		await killWhileFrozen();
		expect(await isFrozen(guest)).toBe(true);
		const point = await takePoint(backupArgs(guest, repository, '--quiesce', 'require'));
		expect(point.recovered.join('\n')).toMatch(/thawed the guest \(2 file systems\), which run \w+ left frozen/);
		expect(point.manifest.consistency).toBe('quiesced');
		await expectThawed(guest, 2_000);
		await expectNothingLeft(guest, repository);
	});

	test('by a run that was killed with its guard is thawed also by a run that does not freeze', async () => {
		await killWhileFrozen();
		expect(await isFrozen(guest)).toBe(true);
		const next = await runQuiesce(backupArgs(guest, repository, '--quiesce', 'never'));
		expect(next.code).toBe(0);
		expect(next.stderr).toMatch(/thawed the guest \(2 file systems\), which run \w+ left frozen/);
		await expectThawed(guest, 2_000);
		await expectNothingLeft(guest, repository);
	});

	test('by someone else is not ours to thaw: refused or crash-consistent', async () => {
		const other = await GuestAgent.open({unix: guest.agentPath});
		expect(await other.freeze(10_000)).toBe(2);
		other.close();
		try {
			await expectRefusedOrDegraded(/already frozen, and not by us/);
			expect(await isFrozen(guest)).toBe(true);
		} finally {
			const thawed = await runQuiesce(['thaw', '--agent', guest.agentPath]);
			expect(thawed).toMatchObject({code: 0, stdout: 'thawed 2 file systems\n'});
		}
		await expectThawed(guest, 2_000);
	});
});

test('without an agent in the guest a point is crash-consistent, or refused', async () => {
	await guest.read('kill $(pidof qemu-ga)');
	await expectRefusedOrDegraded(/no guest agent answers/);
});
