import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {onTestFinished} from 'vitest';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';

const KIB = 1024;
export const CLUSTER = 64 * KIB;

/** What the test image holds: its clusters by number. */
export const IMAGE = {
	sizeBytes: 40 * CLUSTER + 5 * 512,
	/** In the image below. */
	below: [0, 1, 2, 3, 20, 21],
	/** Above it, before the bitmap. */
	above: [2, 8],
	zeroes: [3, 10],
	/** Since the bitmap was made. */
	dirty: [4, 5, 30, 40],
	dirtyZeroes: [21],
};

function qemuIo(file: string, ...commands: string[]): void {
	execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap(command => ['-c', command]), file], {stdio: 'pipe'});
}

/** A qcow2 image that lies on another one, with a persistent bitmap `changed`. */
export function makeImage(folder: string): string {
	const {sizeBytes, below, above, zeroes, dirty, dirtyZeroes} = IMAGE;
	const base = path.join(folder, 'base.qcow2');
	const image = path.join(folder, 'top.qcow2');
	const write = (salt: number) => (cluster: number) => {
		const offset = cluster * CLUSTER;
		return `write -P ${salt + cluster} ${offset} ${Math.min(CLUSTER, sizeBytes - offset)}`;
	};
	const zero = (cluster: number) => `write -z ${cluster * CLUSTER} ${CLUSTER}`;
	qemuImg('create', '-q', '-f', 'qcow2', base, String(sizeBytes));
	qemuIo(base, ...below.map(write(1)));
	qemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', image);
	qemuIo(image, ...above.map(write(100)), ...zeroes.map(zero));
	qemuImg('bitmap', '--add', '-f', 'qcow2', image, 'changed');
	qemuIo(image, ...dirty.map(write(200)), ...dirtyZeroes.map(zero));
	return image;
}

/** Exports an image as `disk` with a storage daemon, read-only, with all the contexts that it has. Returns the socket. */
export function exportImage(image: string = makeImage(temporaryFolder())): string {
	const folder = temporaryFolder();
	const socket = path.join(folder, 'nbd.sock');
	const pidFile = path.join(folder, 'pid');
	execFileSync(
		'qemu-storage-daemon',
		[
			...[
				'--blockdev',
				JSON.stringify({
					'driver': 'qcow2',
					'node-name': 'top',
					'read-only': true,
					'file': {driver: 'file', filename: image},
				}),
			],
			...['--nbd-server', `addr.type=unix,addr.path=${socket}`],
			...['--export', 'nbd,id=disk,node-name=top,name=disk,allocation-depth=on,bitmaps.0=changed'],
			...['--daemonize', '--pidfile', pidFile],
		],
		{stdio: 'ignore'},
	);
	const pid = Number(fs.readFileSync(pidFile, 'utf8'));
	onTestFinished(() => {
		process.kill(pid, 'SIGKILL');
	});
	return socket;
}
