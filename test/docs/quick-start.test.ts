import {join} from 'node:path';
import {expect, test} from 'vitest';
import {runtimeDir} from '../cli/run-quiesce.ts';
import {guestName, temporaryFolder} from '../cli/scene.ts';
import {outcome, output} from '../guest/command.ts';
import {startGuest} from '../guest/guest.ts';
import {codeBlocks, project} from './pages.ts';

test('what the quick start says to type takes a quiesced point of a writing guest and brings it back', async () => {
	await using folder = await temporaryFolder();
	await using guest = await startGuest({name: guestName('begun')});
	const restored = folder.new('restored');
	const commands = codeBlocks('docs/quick-start.md', 'sh')
		.join('\n')
		.replaceAll(/\bweb1\b/g, guest.name)
		.replaceAll('/srv/backup', folder.new('backup'))
		.replaceAll('/var/lib/restored', restored);
	const quiesce = `quiesce() { QUIESCE_CONFIG= QUIESCE_RUNTIME_DIR=${runtimeDir} '${process.execPath}' ${project}/bin/quiesce.js "$@"; }`;

	const ran = await outcome('bash', ['-ec', `${quiesce}\n${commands}`]);
	expect(ran, ran.stderr).toMatchObject({code: 0});
	expect(ran.stdout).toMatch(new RegExp(`^${guest.name}@\\S+Z$`, 'm'));
	expect(ran.stdout).toContain('qemu-system-');

	const stamps = await Promise.all(
		['vda', 'vdb'].map(async disk =>
			Number(await output('debugfs', ['-R', 'cat stamp', join(restored, `${disk}.raw`)])),
		),
	);
	expect(stamps[0]).toBeGreaterThan(0);
	expect(stamps[1]).toBe(stamps[0]);
	expect((await guest.stamps()).a).toBeGreaterThan(stamps[0]!);
});
