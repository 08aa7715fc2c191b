import {join} from 'node:path';
import {expect, test} from 'vitest';
import {type Ended, lastOf, runQuiesce} from '../cli/run-quiesce.ts';
import {
	expectNothingLeft,
	expectOneInstant,
	guestName,
	newRepository,
	socketsOf,
	temporaryFolder,
} from '../cli/scene.ts';
import {output} from '../guest/command.ts';
import {startGuest} from '../guest/guest.ts';
import {fsck, needsRecovery, readStamps} from '../guest/oracle.ts';

test(
	'a writing guest is exported to an archive, which gives back its disks as they were at one instant',
	{timeout: 180_000},
	async () => {
		await using folder = await temporaryFolder();
		const repository = await newRepository(folder);
		await using guest = await startGuest({
			name: guestName('archive'),
			bytes: 24 << 20,
			fillBytes: 3 << 20,
			rawBytes: 8 << 20,
			raw: 'writing',
			rawRate: 400,
		});
		const look = async () => ({...(await guest.stamps()), writes: (await guest.rawStats()).count});
		const archive = join(folder.path, 'guest.vma.zst');
		const before = await look();
		// So slowly that the guest overwrites its raw disks meanwhile.
		const exporting = ['export', ...socketsOf(guest), '--output', archive, '--quiesce', 'require', '--speed', '10M'];
		await succeed(...exporting);
		const after = await look();
		await expectNothingLeft(guest, repository);
		await succeed('verify', archive);

		const restored = await filesOf('restore', archive, '--to', folder.new('restored'));
		expect(restored).toHaveLength(4);
		const writes = await expectOneInstant(restored);
		expect(writes).toBeGreaterThanOrEqual(before.writes);
		expect(after.writes - writes).toBeGreaterThan(500);
		const [a = '', b = ''] = restored;
		const stamps = await readStamps(a, b);
		expect(stamps.a).toBe(stamps.b);
		expect(stamps.a).toBeGreaterThanOrEqual(before.b);
		expect(stamps.a).toBeLessThanOrEqual(after.a);
		for (const disk of [a, b]) {
			expect(await needsRecovery(disk)).toBe(false);
			expect(await fsck(disk)).toMatchObject({clean: true});
		}

		await succeed('import', archive, '-r', repository);
		const imported = await filesOf(
			'restore',
			guest.name,
			'-r',
			repository,
			'--to',
			folder.new('restored'),
			'--format',
			'raw',
		);
		for (const [index, file] of restored.entries()) await output('cmp', [file, imported[index] ?? '']);
	},
);

async function filesOf(...args: string[]): Promise<string[]> {
	const {disks} = lastOf(await succeed(...args)) as unknown as {disks: readonly {path: string}[]};
	return disks.map(({path}) => path);
}

async function succeed(...args: string[]): Promise<Ended> {
	const ended = await runQuiesce([...args, '--json']);
	if (ended.code !== 0)
		throw new Error(`${args.join(' ')}: ${ended.code ?? ended.signal}\n${ended.stdout}\n${ended.stderr}`);
	return ended;
}
