import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {onTestFinished} from 'vitest';
import {temporaryFolder, temporaryMount} from '../repository/fixture.ts';

/** Bytes that reach no disk, though every write of them succeeds. */
export const TOO_MUCH = 16 * 1024 * 1024;

/** How QEMU tells of it, from one of its versions to the next. */
export const FLUSH_FAILURE = /No space left on device|Input\/output error/;

/**
 * A file system that takes what is written to it into memory, and cannot bring it to its device, which has four real
 * megabytes: only a flush tells. Unmounted after the test.
 */
export function failingFileSystem(): string {
	return loopMount(path.join(temporaryMount(4), 'device'));
}

/** An ext4 of 64 MiB in a sparse file. Unmounted after the test. */
export function loopMount(file: string): string {
	fs.closeSync(fs.openSync(file, 'wx'));
	fs.truncateSync(file, 64 * 1024 * 1024);
	execFileSync('mkfs.ext4', ['-q', '-E', 'nodiscard,lazy_itable_init=0', '-J', 'size=1', file], {stdio: 'pipe'});
	const device = execFileSync('losetup', ['--find', '--show', file], {encoding: 'utf8'}).trim();
	onTestFinished(() => {
		execFileSync('losetup', ['--detach', device]);
	});
	const folder = temporaryFolder();
	execFileSync('mount', [device, folder]);
	onTestFinished(() => {
		execFileSync('umount', ['--lazy', folder]);
	});
	return folder;
}
