import {mkdir} from 'node:fs/promises';
import {join} from 'node:path';
import {expect, test} from 'vitest';
import {guestName, temporaryFolder} from '../cli/scene.ts';
import {output} from '../guest/command.ts';
import {ext4Image} from '../guest/disks.ts';
import {startGuest} from '../guest/guest.ts';
import {needsRecovery, readStamps} from '../guest/oracle.ts';
import {runAsTyped} from './as-typed.ts';
import {readPage} from './pages.ts';

const PAGE = 'docs/storage-snapshots.md';

/** The commands under a heading. */
function recipe(heading: string): string {
	const [, section = ''] = readPage(PAGE).split(`\n## ${heading}\n`);
	return /```sh\n(?<code>.*?)```/s.exec(section)?.groups?.['code'] ?? '';
}

test.each([
	['btrfs', ['mkfs.btrfs', '-q'], 'subvolume'],
	['XFS, without any volume manager', ['mkfs.xfs', '-q'], 'folder'],
] as const)('%s: what the page says to type copies a writing guest whole', async (heading, [make, ...args], kind) => {
	await using folder = await temporaryFolder();
	const storage = folder.new('storage');
	await output('truncate', ['--size', '400M', `${storage}.image`]);
	await output(make, [...args, `${storage}.image`]);
	await mkdir(storage);
	await output('mount', ['-o', 'loop', `${storage}.image`, storage]);
	await using mounted = new AsyncDisposableStack();
	mounted.defer(async () => {
		await output('umount', ['-l', storage]);
	});
	const images = join(storage, 'web1');
	await (kind === 'subvolume' ? output('btrfs', ['subvolume', 'create', images]) : mkdir(images));
	const vda = await ext4Image(join(images, 'vda.raw'), 'raw', 24 << 20, 0, 'a');
	const vdb = await ext4Image(join(images, 'vdb.raw'), 'raw', 24 << 20, 0, 'b');
	await using guest = await startGuest({name: guestName('stored'), images: {vda, vdb}});
	await guest.consoleSays(/ready/);

	const commands = recipe(heading)
		.replaceAll('/srv/images/web1', images)
		.replaceAll('freeze web1', `freeze ${guest.name}`);
	expect(commands).toContain(`quiesce freeze ${guest.name} -- `);
	const ran = await runAsTyped(commands);
	expect(ran, ran.stderr).toMatchObject({code: 0});

	const copies = [join(`${images}-now`, 'vda.raw'), join(`${images}-now`, 'vdb.raw')] as const;
	// A file system that was not frozen needs its journal.
	for (const copy of copies) expect(await needsRecovery(copy)).toBe(false);
	const {a, b} = await readStamps(...copies);
	expect(a).toBeGreaterThan(0);
	expect(b).toBe(a);
	const later = await guest.stamps();
	expect(later.a).toBeGreaterThan(a);
});
