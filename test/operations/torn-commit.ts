import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {onTestFinished} from 'vitest';
import {temporaryFolder} from '../repository/fixture.ts';

const SOURCE = fileURLToPath(new URL('native/kill-at-write.c', import.meta.url));

/** Something is done to `qemu-img commit` when we start it, until it is mended or the test ends. */
export interface Fault {
	mend(): void;
}

/** The first one is killed in the middle of its nth write. */
export function killCommitAtWrite(nth: number): Fault {
	const library = path.join(temporaryFolder(), 'kill-at-write.so');
	execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-o', library, SOURCE, '-ldl']);
	const preload = `LD_PRELOAD=${library} QUIESCE_TEST_KILL_AT_WRITE=${nth}`;
	return replaceCommits(`mkdir ${library}.used 2>/dev/null && ${preload} exec "$real" "$@"`);
}

/** What it writes beyond so many bytes of a file fails. */
export function failCommitsBeyond(bytes: number): Fault {
	return replaceCommits(`exec env --ignore-signal=XFSZ prlimit --fsize=${bytes} "$real" "$@"`);
}

/** The file system is filled just before. */
export function fillBeforeCommits(filler: string): Fault {
	const fault = replaceCommits(`dd if=/dev/zero of=${filler} bs=4k 2>/dev/null; exec "$real" "$@"`);
	return {
		mend: () => {
			fault.mend();
			fs.rmSync(filler, {force: true});
		},
	};
}

function replaceCommits(command: string): Fault {
	const folder = temporaryFolder();
	const before = process.env['PATH'] ?? '';
	const real = before.split(':').find(one => fs.existsSync(path.join(one, 'qemu-img'))) ?? '';
	const script = [
		'#!/bin/sh',
		`real=${real}/qemu-img`,
		'if [ "$1" = commit ]; then',
		command,
		'fi',
		'exec "$real" "$@"',
	];
	fs.writeFileSync(path.join(folder, 'qemu-img'), `${script.join('\n')}\n`, {mode: 0o755});
	process.env['PATH'] = `${folder}:${before}`;
	const mend = (): void => {
		process.env['PATH'] = before;
	};
	onTestFinished(mend);
	return {mend};
}
