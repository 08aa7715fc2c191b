import {execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {commitImage} from '../../src/images/commit-image.ts';
import {checkImage, freeLeaks} from '../../src/images/qemu-img.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';

function write(image: string, ...commands: string[]): void {
	execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap(command => ['-c', command]), image]);
}

/** Three images on one another; the middle one is committed to the lowest or the highest to it. */
function chain(backingFormat = 'qcow2'): {base: string; middle: string; top: string} {
	const folder = temporaryFolder();
	const [base, middle, top] = ['base', 'middle', 'top'].map(name => path.join(folder, `${name}.qcow2`)) as [
		string,
		string,
		string,
	];
	qemuImg('create', '-q', '-f', 'qcow2', base, '540672');
	write(base, 'write -P 1 0 540672');
	qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', middle);
	write(middle, 'write -P 2 128k 64k');
	qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', 'middle.qcow2', '-F', backingFormat, top, '540672');
	write(top, 'write -z 0 64k', 'write -P 3 256k 64k', 'write -P 4 512k 16k');
	return {base, middle, top};
}

function contentOf(image: string): Buffer {
	const raw = path.join(temporaryFolder(), 'raw');
	qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
	return fs.readFileSync(raw);
}

test('the image beneath comes to show what the upper one does, zeroes included, and no other is changed', async () => {
	const {base, middle, top} = chain();
	const [shown, before, beneath] = [contentOf(top), fs.readFileSync(top), fs.readFileSync(base)];
	const told: number[] = [];
	await commitImage(top, {onProgress: done => told.push(done)});
	expect(contentOf(middle).equals(shown)).toBe(true);
	expect(fs.readFileSync(top).equals(before)).toBe(true);
	expect(fs.readFileSync(base).equals(beneath)).toBe(true);
	expect(told.at(-1)).toBe(1);
	expect(await checkImage(middle, 'qcow2')).toEqual({problems: [], warnings: []});
	await commitImage(top);
	expect(contentOf(middle).equals(shown)).toBe(true);
});

test('an image that takes the one beneath for another format is refused', async () => {
	const {middle, top} = chain('raw');
	const before = fs.readFileSync(middle);
	await expect(commitImage(top)).rejects.toMatchObject({code: 'DAMAGED'});
	expect(fs.readFileSync(middle).equals(before)).toBe(true);
});

test('nothing is written while somebody reads', async () => {
	const {middle, top} = chain();
	const reader = spawn('qemu-io', ['-r', '-f', 'qcow2', middle], {stdio: ['pipe', 'pipe', 'ignore']});
	onTestFinished(() => void reader.kill());
	reader.stdin.write('read 0 512\n');
	await once(reader.stdout, 'data');
	const before = fs.readFileSync(middle);
	await expect(commitImage(top)).rejects.toThrow(/Is another process using the image/);
	expect(fs.readFileSync(middle).equals(before)).toBe(true);
});

test('leaked clusters are freed, and nothing else is changed', async () => {
	const image = path.join(temporaryFolder(), 'a.qcow2');
	qemuImg('create', '-q', '-f', 'qcow2', image, '64M');
	const handle = fs.openSync(image, 'r+');
	fs.writeSync(handle, Buffer.from([0, 1]), 0, 2, 2 * 65_536 + 2 * 4);
	fs.ftruncateSync(handle, 6 * 65_536);
	fs.closeSync(handle);
	expect((await checkImage(image, 'qcow2')).warnings).toHaveLength(1);
	await freeLeaks(image);
	expect(await checkImage(image, 'qcow2')).toEqual({problems: [], warnings: []});
});
