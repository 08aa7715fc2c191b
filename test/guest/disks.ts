import {randomBytes} from 'node:crypto';
import {mkdir, open, rm, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {output} from './command.ts';

export type ImageFormat = 'raw' | 'qcow2';

export interface Image {
	readonly path: string;
	readonly format: ImageFormat;
}

/** A new disk of zeroes. */
export const blankImage = async (path: string, format: ImageFormat, bytes: number): Promise<Image> => {
	await output('qemu-img', ['create', '-q', '-f', format, path, String(bytes)]);
	return {path, format};
};

/**
 * A new ext4 disk as the stamp writer wants it. `fillBytes` of files are put on it, half of them text, half random.
 *
 * The stamp is there from the start: it is only overwritten in place, so it can be read
 * from a copy whose journal was never replayed.
 */
export const ext4Image = async (
	path: string,
	format: ImageFormat,
	bytes: number,
	fillBytes: number,
	label: string,
): Promise<Image> => {
	const content = `${path}.content`;
	const raw = format === 'raw' ? path : `${path}.raw`;
	await mkdir(join(content, 'data'), {recursive: true});
	await writeFile(join(content, 'stamp'), `${'0'.repeat(20)}\n`);
	const fileBytes = 1 << 20;
	for (let at = 0; at < fillBytes; at += fileBytes) {
		const size = Math.min(fileBytes, fillBytes - at);
		const index = at / fileBytes;
		const text = `${label}: file ${index} of ordinary text that compresses well\n`;
		const data = index % 2 === 0 ? Buffer.alloc(size, text) : randomBytes(size);
		await writeFile(join(content, 'data', `file-${index}`), data);
	}
	await using file = await open(raw, 'w');
	await file.truncate(bytes);
	await output('mke2fs', [
		'-q',
		'-F',
		'-t',
		'ext4',
		'-b',
		'4096',
		'-L',
		label,
		'-E',
		'root_owner=0:0',
		'-d',
		content,
		raw,
	]);
	await rm(content, {recursive: true});
	if (raw !== path) {
		await output('qemu-img', ['convert', '-f', 'raw', '-O', format, raw, path]);
		await rm(raw);
	}
	return {path, format};
};

/** Copies a disk, with its backing files, into one raw file. No QEMU may have it open for writing. */
export const rawCopy = async (image: Image, path: string): Promise<string> => {
	await output('qemu-img', ['convert', '-f', image.format, '-O', 'raw', image.path, path]);
	return path;
};
