import {execFileSync} from 'node:child_process';
import {createHash, randomBytes} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {hashFiles} from '../../src/repository/hash-file.ts';
import {temporaryFolder} from './fixture.ts';

const MIB = 1024 * 1024;

function write(folder: string, name: string, bytes: number): string {
	const file = path.join(folder, name);
	const handle = fs.openSync(file, 'wx');
	const block = randomBytes(MIB);
	for (let rest = bytes; rest > 0; rest -= MIB) fs.writeSync(handle, block, 0, Math.min(rest, MIB));
	fs.closeSync(handle);
	return file;
}

test('hashes small and large files as sha256sum does, with progress', async () => {
	const folder = temporaryFolder();
	const sizes = [0, 1, MIB, 8 * MIB - 1, 8 * MIB, 40 * MIB + 17];
	const files = sizes.map((size, index) => write(folder, `f${index}`, size));
	const told = new Map<string, number>();
	const hashes = await hashFiles(files, {onProgress: (file, bytes) => void told.set(file, bytes)});
	for (const [index, file] of files.entries()) {
		const sha256 = createHash('sha256').update(fs.readFileSync(file)).digest('hex');
		expect(hashes.get(file)).toEqual({sha256, bytes: sizes[index]});
		expect(told.get(file)).toBe(sizes[index]);
	}
});

test('a file that cannot be read fails by itself', async () => {
	const folder = temporaryFolder();
	const good = write(folder, 'good', 10);
	const missing = path.join(folder, 'missing');
	const link = path.join(folder, 'link');
	fs.symlinkSync(good, link);
	const pipe = path.join(folder, 'pipe');
	execFileSync('mkfifo', [pipe]);
	const hashes = await hashFiles([missing, good, link, pipe]);
	expect(hashes.get(good)).toMatchObject({bytes: 10});
	expect(hashes.get(missing)).toMatchObject({code: 'ENOENT'});
	expect(hashes.get(link)).toMatchObject({code: 'ELOOP'});
	expect(hashes.get(pipe)).toBeInstanceOf(Error);
});

test('aborting stops the threads', async () => {
	const folder = temporaryFolder();
	const files = ['a', 'b', 'c'].map(name => path.join(folder, name));
	for (const file of files) {
		fs.writeFileSync(file, '');
		fs.truncateSync(file, 64 * 1024 * MIB);
	}
	const stop = new AbortController();
	const onProgress = () => {
		stop.abort(new Error('enough'));
	};
	await expect(hashFiles(files, {signal: stop.signal, onProgress})).rejects.toThrow('enough');
	await expect(hashFiles(files, {signal: stop.signal})).rejects.toThrow('enough');
});

test('works when compiled', () => {
	const folder = temporaryFolder();
	const big = write(folder, 'big', 9 * MIB);
	const root = path.resolve(import.meta.dirname, '../..');
	const dist = path.join(folder, 'dist');
	fs.writeFileSync(path.join(folder, 'package.json'), '{"type": "module"}');
	const sources = ['src/repository/hash-file.ts', 'src/repository/hash-worker.ts'];
	const build = JSON.stringify({
		extends: path.join(root, 'tsconfig.build.json'),
		compilerOptions: {
			rootDir: path.join(root, 'src'),
			outDir: dist,
			typeRoots: [path.join(root, 'node_modules/@types')],
		},
		include: [],
		files: sources.map(file => path.join(root, file)),
	});
	fs.writeFileSync(path.join(folder, 'tsconfig.json'), build);
	execFileSync(process.execPath, [path.join(root, 'node_modules/typescript/bin/tsc'), '-p', folder]);
	const module = path.join(dist, 'repository/hash-file.js');
	const script = `
		const {hashFiles} = await import(${JSON.stringify(module)});
		console.log((await hashFiles([${JSON.stringify(big)}])).get(${JSON.stringify(big)}).sha256);
	`;
	const printed = execFileSync(process.execPath, ['--input-type=module', '-e', script], {encoding: 'utf8'});
	expect(printed.trim()).toBe(createHash('sha256').update(fs.readFileSync(big)).digest('hex'));
});
