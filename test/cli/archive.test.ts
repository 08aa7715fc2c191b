import {readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {expect, test} from 'vitest';
import {BLOCK_BYTES} from '../../src/vma/geometry.ts';
import {headerOf, written} from '../vma/archives.ts';
import {runQuiesce} from './run-quiesce.ts';
import {newRepository, temporaryFolder} from './scene.ts';

const header = headerOf(5 * BLOCK_BYTES);
const content = Buffer.alloc(5 * BLOCK_BYTES, 7);
const {archive, index} = await written(header, new Map([['drive-scsi0', content]]));

test('an archive is listed, verified, restored and imported from a file, and from stdin by a dash', async () => {
	await using folder = await temporaryFolder();
	const file = `${folder.new('one')}.vma`;
	await writeFile(file, archive);
	await writeFile(`${file}.index.json`, index);
	for (const {from, input} of [
		{from: file, input: ''},
		{from: '-', input: archive},
	]) {
		const listed = await runQuiesce(['list', from], {input});
		expect(listed).toMatchObject({
			code: 0,
			stdout: expect.stringMatching(/^scsi0 +drive-scsi0 +20\.0 KiB$/m) as string,
		});
		expect(await runQuiesce(['verify', from], {input})).toMatchObject({
			...{code: 0, stdout: expect.stringContaining('1 cluster of 64 KiB') as string},
			stderr: from === '-' ? 'there is no index, so the data was compared with nothing\n' : '',
		});
		const to = folder.new('restored');
		expect(await runQuiesce(['restore', from, '--to', to], {input})).toMatchObject({code: 0});
		expect(await readFile(join(to, 'scsi0.raw'))).toEqual(content);
		const repository = await newRepository(folder);
		const imported = await runQuiesce(['import', from, '--name', 'web', '-r', repository], {input});
		expect(imported).toMatchObject({code: 0, stdout: 'web@2023-11-14T22-13-20Z\n'});
	}
	const cut = await runQuiesce(['verify', '-'], {input: archive.subarray(0, -1)});
	expect(cut).toMatchObject({code: 30, stdout: expect.stringMatching(/^DAMAGED: .* at byte \d+: /) as string});
});

test('an empty word is no archive, and stdin cannot be served', async () => {
	expect(await runQuiesce(['verify', ''])).toMatchObject({code: 2});
	expect(await runQuiesce(['serve', '-'])).toMatchObject({
		code: 2,
		stderr: expect.stringContaining('a stream') as string,
	});
});
