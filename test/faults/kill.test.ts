/**
 * The program is killed by SIGKILL, alone or with its thaw guard, at steps spread over a whole backup. With
 * `QUIESCE_FAULTS=all` in the environment it is killed at each single message instead, which takes half an hour.
 */
import {readFile, rm} from 'node:fs/promises';
import {fileURLToPath} from 'node:url';
import {afterAll, beforeAll, describe, expect, test} from 'vitest';
import {runQuiesce} from '../cli/run-quiesce.ts';
import {
	backupArgs,
	expectNothingLeft,
	expectOneInstant,
	expectThawed,
	type Folder,
	guestName,
	newRepository,
	restoreRaw,
	takePoint,
	temporaryFolder,
} from '../cli/scene.ts';
import {type Guest, startGuest} from '../guest/guest.ts';

const PRELOAD = fileURLToPath(new URL('kill-when.ts', import.meta.url));
const SPREAD = 3;

let folder: Folder;
let repository: string;
let guest: Guest;
/** Those of a backup that went well. */
let transcript: readonly string[];

beforeAll(async () => {
	folder = await temporaryFolder();
	repository = await newRepository(folder);
	guest = await startGuest({name: guestName('victim'), bytes: 24 << 20, raw: 'writing', rawBytes: 4 << 20});
	const file = folder.new('transcript');
	await takePoint(backupArgs(guest, repository, '--transcript', file));
	transcript = (await readFile(file, 'utf8')).trimEnd().split('\n');
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

/** Where something is at stake, found by what is said, as the number of lines differs a little from run to run. */
const FREEZE_WINDOW = [
	'agent -> .*"guest-fsfreeze-freeze"',
	'agent <- .*"return": 2}',
	'qmp -> .*"transaction"',
	'agent -> .*"guest-fsfreeze-thaw"',
];
const CRITICAL = [
	'qmp -> .*"blockdev-add"',
	...FREEZE_WINDOW,
	'qmp -> .*"job-finalize"',
	'qmp -> .*"job-dismiss"',
	'daemon -> .*"blockdev-reopen"',
];

function steps(sample: readonly string[]): readonly string[] {
	const all = Array.from(transcript, (_, index) => String(index + 1));
	if (process.env['QUIESCE_FAULTS'] === 'all') return [...CRITICAL, ...all];
	const spread = Array.from({length: SPREAD}, (_, index) => Math.floor(((index + 0.5) / SPREAD) * all.length));
	return [...sample, ...spread.map(String)];
}

async function killAt(step: string, withGuard: boolean): Promise<void> {
	const file = folder.new('transcript');
	const ended = await runQuiesce(backupArgs(guest, repository, '--quiesce', 'require', '--transcript', file), {
		nodeArgs: ['--import', PRELOAD],
		env: {QUIESCE_TEST_KILL_AT: step, ...(withGuard ? {QUIESCE_TEST_KILL_WITH: 'guard'} : {})},
	});
	// A run may need a few messages less than the first one did; then it has simply succeeded.
	expect(ended.signal ?? ended.code, `${step}\n${ended.stderr}`).toBeOneOf(
		/^\d+$/.test(step) ? ['SIGKILL', 0] : ['SIGKILL'],
	);
}

async function expectWholeAgain(step: string): Promise<void> {
	const point = await takePoint(backupArgs(guest, repository, '--quiesce', 'require'));
	expect(point.manifest.consistency).toBe('quiesced');
	await expectNothingLeft(guest, repository);
	const disks = await restoreRaw(point, repository, folder.new('restored'));
	await expectOneInstant(disks);
	await rm(point.folder, {recursive: true});
	expect(await guest.rawStats(), step).toMatchObject({errors: 0});
}

describe('a backup killed at any step', () => {
	test(
		'leaves the guest thawed within 2 s, and the next one undoes what is left and is right',
		{timeout: 3_600_000},
		async () => {
			for (const step of steps(CRITICAL)) {
				await killAt(step, false);
				await expectThawed(guest, 2_000);
				await expectWholeAgain(step);
			}
		},
	);

	test(
		'with its guard: the next one thaws the guest, undoes what is left and is right',
		{timeout: 3_600_000},
		async () => {
			for (const step of steps(FREEZE_WINDOW)) {
				await killAt(step, true);
				await expectWholeAgain(step);
				await expectThawed(guest, 2_000);
			}
		},
	);
});
