import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, toArray} from 'rxjs';
import {expect, test} from 'vitest';
import {convertImage} from '../../src/images/convert-image.ts';
import {readQcow2Header, requireNoForeignFiles} from '../../src/images/qcow2-header.ts';
import {checkImage, createImage, imageInfo, measureImage} from '../../src/images/qemu-img.ts';
import {corrupt, qemuImg, temporaryFolder, toStored, writeSource} from '../repository/fixture.ts';

const MIB = 1024 * 1024;

test.each(['none', 'zstd'] as const)('creates a private image (%s)', async compression => {
	const image = path.join(temporaryFolder(), 'a: b,c.qcow2');
	await createImage(image, {sizeBytes: 540_672, compression});
	expect(fs.statSync(image).mode & 0o777).toBe(0o600);
	await expect(imageInfo(image, 'qcow2')).resolves.toEqual({
		format: 'qcow2',
		virtualSizeBytes: 540_672,
		backingFile: null,
		backingFormat: null,
		dataFile: null,
		compressionType: compression === 'zstd' ? 'zstd' : 'zlib',
		state: 'sound',
	});
	await expect(checkImage(image, 'qcow2')).resolves.toEqual({problems: [], warnings: []});
	await expect(createImage(image, {sizeBytes: MIB, compression})).rejects.toThrow(`cannot create ${image}: it exists`);
});

test('an image that cannot be created is not left behind', async () => {
	const image = path.join(temporaryFolder(), 'a.qcow2');
	await expect(createImage(image, {sizeBytes: -1, compression: 'none'})).rejects.toMatchObject({code: 'FAILED'});
	expect(fs.existsSync(image)).toBe(false);
});

test('a check finds corruption, and takes leaks for a warning', async () => {
	const image = path.join(temporaryFolder(), 'a.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', image, '64M');
	// A reference count of a cluster that nothing uses, and then none for the header itself.
	const handle = fs.openSync(image, 'r+');
	fs.writeSync(handle, Buffer.from([0, 1]), 0, 2, 2 * 65_536 + 2 * 3 + 2);
	fs.ftruncateSync(handle, 6 * 65_536);
	await expect(checkImage(image, 'qcow2')).resolves.toMatchObject({
		problems: [],
		warnings: [expect.stringContaining('1 clusters are leaked')],
	});
	fs.writeSync(handle, Buffer.from([0, 0]), 0, 2, 2 * 65_536);
	fs.closeSync(handle);
	await expect(checkImage(image, 'qcow2')).resolves.toMatchObject({
		problems: [expect.stringContaining('found 1 corruptions')],
	});
	fs.writeFileSync(image, 'no image');
	await expect(checkImage(image, 'qcow2')).resolves.toMatchObject({
		problems: [expect.stringContaining('not in qcow2 format')],
	});
});

test('reads from the header what QEMU reads', async () => {
	const folder = temporaryFolder();
	const [plain, backed, external] = ['plain', 'backed', 'external'].map(name => path.join(folder, name));
	qemuImg('create', '-q', '-f', 'qcow2', plain!, '1M');
	qemuImg('create', '-q', '-f', 'qcow2', '-F', 'raw', '-u', '-b', '/etc/shadow', backed!, '2M');
	qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${external!}.data`, external!, '3M');
	await expect(readQcow2Header(plain!)).resolves.toMatchObject({sizeBytes: MIB, backingFile: null, dataFile: 'none'});
	await expect(readQcow2Header(backed!)).resolves.toMatchObject({sizeBytes: 2 * MIB, backingFile: '/etc/shadow'});
	await expect(readQcow2Header(external!)).resolves.toMatchObject({sizeBytes: 3 * MIB, dataFile: 'external'});
	await expect(requireNoForeignFiles(backed!, null)).rejects.toThrow('it names the backing file "/etc/shadow"');
	await expect(requireNoForeignFiles(external!, null)).rejects.toThrow('it keeps its data in another file');
	await expect(requireNoForeignFiles(plain!, '../p/x')).rejects.toThrow('it lacks its backing file "../p/x"');
	await expect(requireNoForeignFiles(backed!, '/etc/shadow')).resolves.toBeDefined();
});

test('a header that is none is damage', async () => {
	const file = path.join(temporaryFolder(), 'a.qcow2');
	for (const bytes of [Buffer.alloc(0), Buffer.alloc(200), Buffer.from('QFI\xfb\0\0\0\x09'.padEnd(200), 'latin1')]) {
		fs.writeFileSync(file, bytes);
		await expect(readQcow2Header(file)).rejects.toMatchObject({code: 'DAMAGED'});
	}
	const [link, folder] = [`${file}.link`, temporaryFolder()];
	fs.symlinkSync('/etc/passwd', link);
	await expect(readQcow2Header(link)).rejects.toMatchObject({code: 'ELOOP'});
	await expect(readQcow2Header(folder)).rejects.toThrow('is not a regular file');
});

test('converts with progress, to private files', async () => {
	const folder = temporaryFolder();
	const [raw, image, back] = ['a.raw', 'a.qcow2', 'b.raw'].map(name => path.join(folder, name));
	writeSource(raw!, 8 * MIB);
	toStored(raw!, image!);
	await expect(measureImage(image!)).resolves.toBeGreaterThan(4 * MIB);
	const steps = await lastValueFrom(
		convertImage({
			source: image!,
			sourceFormat: 'qcow2',
			targetKind: 'new-file',
			target: back!,
			targetFormat: 'raw',
		}).pipe(toArray()),
	);
	expect(steps[0]).toBe(0);
	expect(steps.at(-1)).toBe(1);
	expect(steps.toSorted((one, other) => one - other)).toEqual(steps);
	expect(fs.statSync(back!).mode & 0o777).toBe(0o600);
	expect(fs.readFileSync(back!).equals(fs.readFileSync(raw!))).toBe(true);
});

test('a copy that fails leaves no target, and one that is there stays', async () => {
	const folder = temporaryFolder();
	const [image, target] = ['a.qcow2', 'b.raw'].map(name => path.join(folder, name));
	const options = {sourceFormat: 'qcow2', targetKind: 'new-file', targetFormat: 'raw'} as const;
	writeSource(path.join(folder, 'a.raw'), 8 * MIB);
	toStored(path.join(folder, 'a.raw'), image!);
	corrupt(image!, 0);
	await expect(lastValueFrom(convertImage({...options, source: image!, target: target!}))).rejects.toThrow(
		`qemu-img failed on ${target!}`,
	);
	expect(fs.existsSync(target!)).toBe(false);
	fs.writeFileSync(target!, 'mine');
	await expect(lastValueFrom(convertImage({...options, source: image!, target: target!}))).rejects.toThrow('it exists');
	expect(fs.readFileSync(target!, 'utf8')).toBe('mine');
});

test('unsubscribing from a copy ends it', async () => {
	const folder = temporaryFolder();
	const [image, target] = ['a.qcow2', 'b.raw'].map(name => path.join(folder, name));
	writeSource(path.join(folder, 'a.raw'), 64 * MIB);
	toStored(path.join(folder, 'a.raw'), image!);
	const options = {sourceFormat: 'qcow2', targetKind: 'new-file', targetFormat: 'raw'} as const;
	await new Promise<void>((resolve, reject) => {
		const copy = convertImage({...options, source: image!, target: target!}).subscribe({
			next: () => {
				queueMicrotask(() => {
					copy.unsubscribe();
					resolve();
				});
			},
			error: reject,
		});
	});
	await expect.poll(() => fs.existsSync(target!)).toBe(false);
});
