import {join} from 'node:path';
import {expect, test} from 'vitest';
import {guestName, temporaryFolder} from '../cli/scene.ts';
import {startGuest} from '../guest/guest.ts';
import {readStamps} from '../guest/oracle.ts';
import {runAsTyped} from './as-typed.ts';
import {codeBlocks} from './pages.ts';

test('what the quick start says to type takes a quiesced point of a writing guest and brings it back', async () => {
	await using folder = await temporaryFolder();
	await using guest = await startGuest({name: guestName('begun')});
	const restored = folder.new('restored');
	const commands = codeBlocks('docs/quick-start.md', 'sh')
		.join('\n')
		.replaceAll(/\bweb1\b/g, guest.name)
		.replaceAll('/srv/backup', folder.new('backup'))
		.replaceAll('/var/lib/restored', restored);

	const ran = await runAsTyped(commands);
	expect(ran, ran.stderr).toMatchObject({code: 0});
	expect(ran.stdout).toMatch(new RegExp(`^${guest.name}@\\S+Z$`, 'm'));
	expect(ran.stdout).toContain('qemu-system-');

	const {a, b} = await readStamps(join(restored, 'vda.raw'), join(restored, 'vdb.raw'));
	expect(a).toBeGreaterThan(0);
	expect(b).toBe(a);
	expect((await guest.stamps()).a).toBeGreaterThan(a);
});
