import {type ChildProcess, spawn} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import {fileURLToPath} from 'node:url';
import {expect, onTestFinished} from 'vitest';
import {backup} from '../../src/operations/backup.ts';
import type {BackupMessage, BackupRequest} from '../../src/operations/backup-messages.ts';
import type {NamedImage} from '../../src/operations/vm-images.ts';
import {qemuImg} from '../repository/fixture.ts';
import {collect} from './collect.ts';
import {type BareVm, eventually, inside, isRunning, processesNaming} from './bare-vm.ts';
import {quietRequest} from './quiet-request.ts';

export type Finished = Extract<BackupMessage, {kind: 'finished'}>;

export function requestFor(vm: BareVm, repository: string, rest: Partial<BackupRequest> = {}): BackupRequest {
	return {
		...quietRequest(vm),
		repository,
		sink: 'daemon',
		compression: 'none',
		...rest,
	};
}

/** For the VM that {@link requestFor} was for, once it is off. */
export function requestOff(
	repository: string,
	{name = 'web', images = [], ...rest}: Partial<BackupRequest> & {name?: string; images?: readonly NamedImage[]} = {},
): BackupRequest {
	return {
		sockets: {name, images, repository},
		signal: new AbortController().signal,
		tell: () => undefined,
		quiesce: 'never',
		freezeTimeoutMs: 5_000,
		repository,
		sink: 'daemon',
		compression: 'none',
		...rest,
	};
}

/** Takes a point. What `onMessage` does is waited for too. */
export function take(
	request: BackupRequest,
	onMessage: (message: BackupMessage) => unknown = () => undefined,
): Promise<BackupMessage[]> {
	return collect(backup(request), onMessage);
}

export function finishedOf(messages: readonly BackupMessage[]): Finished {
	const last = messages.at(-1);
	if (last?.kind !== 'finished') throw new Error(`it ended with ${last?.kind ?? 'nothing'}`);
	return last;
}

/** Whether the image of a disk in a point is the same as a raw file. */
export function compare({folder, manifest}: Finished, disk: string, reference: string): string {
	const {file} = manifest.disks.find(candidate => candidate.name === disk)!;
	return qemuImg('compare', '-f', 'qcow2', '-F', 'raw', path.join(folder, file), reference);
}

/** Every file of a repository but its own document, hidden ones too. */
export function filesIn(repository: string): string[] {
	return fs
		.readdirSync(repository, {recursive: true, withFileTypes: true})
		.filter(entry => entry.isFile() && entry.name !== 'repository.json')
		.map(entry => path.relative(repository, path.join(entry.parentPath, entry.name)))
		.sort();
}

/** Neither in QEMU, nor among the processes, nor in the runtime folder, nor, but for finished points, in the repository. */
export async function expectNothingLeft(vm: BareVm, repository: string): Promise<void> {
	const {jobs, nodes} = await inside(vm.qmp);
	expect([...jobs, ...nodes].filter(name => name.startsWith('qsc-'))).toEqual([]);
	expectNothingLeftOutside(repository);
}

export function expectNothingLeftOutside(repository: string): void {
	const runtime = process.env['QUIESCE_RUNTIME_DIR']!;
	expect(processesNaming(path.join(runtime, 'run-'))).toEqual([]);
	expect(fs.readdirSync(runtime)).toEqual([]);
	expect(filesIn(repository).filter(file => file.includes('.partial'))).toEqual([]);
	const vms = path.join(repository, 'vms');
	const left = fs.existsSync(vms) ? fs.readdirSync(vms, {recursive: true}).map(String) : [];
	expect(left.filter(name => name.endsWith('.partial'))).toEqual([]);
}

/** A backup in a process of its own. */
export interface BackupProcess {
	readonly child: ChildProcess;
	/** The next message of that kind. Fails if the run ends before. */
	until<Kind extends BackupMessage['kind']>(kind: Kind): Promise<Extract<BackupMessage, {kind: Kind}>>;
	/** SIGKILL for it and its guard, as of a whole control group; resolves once both have ended. */
	kill(): Promise<void>;
	/** SIGKILL for it alone. Resolves with its guard's process once it has ended itself. */
	killAlone(): Promise<number>;
	/** What it and its guard said on stderr until now. */
	stderr(): string;
}

export function startBackup(request: BackupRequest): BackupProcess {
	const program = fileURLToPath(new URL('backup-process.ts', import.meta.url));
	const child = spawn(process.execPath, [program, JSON.stringify({...request, signal: undefined, tell: undefined})], {
		stdio: ['ignore', 'pipe', 'pipe'],
	});
	let stderr = '';
	child.stderr.setEncoding('utf8').on('data', part => {
		stderr += String(part);
	});
	const ended = new Promise<void>(resolve => {
		child.once('exit', () => {
			resolve();
		});
	});
	const kill = async (): Promise<void> => {
		const guard = child.exitCode === null && child.signalCode === null ? guardOf(child.pid!) : undefined;
		if (guard !== undefined) process.kill(guard, 'SIGKILL');
		child.kill('SIGKILL');
		await ended;
		if (guard !== undefined) await eventually(() => !isRunning(guard));
	};
	const killAlone = async (): Promise<number> => {
		const guard = guardOf(child.pid!)!;
		child.kill('SIGKILL');
		await ended;
		return guard;
	};
	onTestFinished(kill);
	const lines = readline.createInterface(child.stdout)[Symbol.asyncIterator]();
	const until = async <Kind extends BackupMessage['kind']>(kind: Kind) => {
		for (;;) {
			const {value, done} = await lines.next();
			if (done === true) throw new Error(`the run ended before '${kind}'`);
			const message = JSON.parse(value) as BackupMessage | {kind: 'failed'; error: string};
			if (message.kind === 'failed') throw new Error(message.error);
			if (message.kind === kind) return message as Extract<BackupMessage, {kind: Kind}>;
		}
	};
	return {child, until, kill, killAlone, stderr: () => stderr};
}

/** The guard of a run's process. */
export function guardOf(pid: number): number | undefined {
	return childrenOf(pid).find(child => namesGuard(child));
}

function childrenOf(pid: number): number[] {
	const children = fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
	return children
		.split(' ')
		.filter(child => child !== '')
		.map(Number);
}

function namesGuard(pid: number): boolean {
	return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('guard-process');
}
