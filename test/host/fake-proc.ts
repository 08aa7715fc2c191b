import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {onTestFinished} from 'vitest';

export interface FakeProcess {
	readonly pid: number;
	readonly argv: readonly string[];
	readonly exe?: string;
	readonly cwd?: string;
	readonly uid?: number;
	/** Inodes of its sockets, by descriptor. */
	readonly fds?: Readonly<Record<number, number>>;
	/** Its mount namespace, which is ours if not given. */
	readonly mounts?: string;
	readonly root?: string;
}

export function temporaryFolder(): string {
	const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'quiesce-host-'));
	onTestFinished(() => {
		fs.rmSync(folder, {recursive: true});
	});
	return folder;
}

/** A folder like /proc, for what cannot be had from the real one: other users' processes, namespaces, races. */
export function fakeProc(processes: readonly FakeProcess[], listeners: Readonly<Record<number, string>> = {}): string {
	const proc = temporaryFolder();
	link('mnt:[1]', path.join(proc, 'self/ns/mnt'));
	fs.mkdirSync(path.join(proc, 'net'));
	const lines = Object.entries(listeners).map(
		([inode, name]) => `0000000000000000: 00000002 00000000 00010000 0001 01 ${inode} ${name}`,
	);
	const header = 'Num       RefCount Protocol Flags    Type St Inode Path';
	fs.writeFileSync(path.join(proc, 'net/unix'), `${[header, ...lines].join('\n')}\n`);
	for (const {pid, argv, exe, cwd, uid = 0, fds = {}, mounts, root} of processes) {
		const folder = path.join(proc, String(pid));
		fs.mkdirSync(path.join(folder, 'fd'), {recursive: true});
		fs.writeFileSync(path.join(folder, 'cmdline'), argv.map(word => `${word}\0`).join(''));
		// The name in brackets is the program's own choice.
		fs.writeFileSync(path.join(folder, 'stat'), `${pid} (qemu) S) S ${'0 '.repeat(18)}${pid}00 0\n`);
		fs.writeFileSync(path.join(folder, 'status'), `Name:\tqemu\nUid:\t0\t${uid}\t0\t0\n`);
		if (exe !== undefined) link(exe, path.join(folder, 'exe'));
		if (cwd !== undefined) link(cwd, path.join(folder, 'cwd'));
		if (root !== undefined) link(root, path.join(folder, 'root'));
		link(mounts ?? 'mnt:[1]', path.join(folder, 'ns/mnt'));
		for (const [fd, inode] of Object.entries(fds)) link(`socket:[${inode}]`, path.join(folder, 'fd', fd));
	}
	return proc;
}

function link(target: string, at: string): void {
	fs.mkdirSync(path.dirname(at), {recursive: true});
	fs.symlinkSync(target, at);
}
