import {type ChildProcess, execFile, spawn} from 'node:child_process';
import {once} from 'node:events';
import net from 'node:net';
import type {Readable} from 'node:stream';
import {setImmediate as immediate, setTimeout as delay} from 'node:timers/promises';
import {promisify} from 'node:util';
import {filter, firstValueFrom} from 'rxjs';
import {asError, QuiesceError} from '../errors.ts';
import {dyingWithUs} from '../host/die-with-us.ts';
import {QmpConnection} from '../qmp/connection.ts';
import type {QmpBlockdevOptions} from '../qmp/schema.ts';
import type {RecordMessage} from '../qmp/transcript.ts';

const PROGRAM = 'qemu-storage-daemon';
/** A process stuck in the kernel, on a dead file system, cannot be killed: it is left behind. */
const KILL_MS = 3_000;
const STOP_MS = 5_000;
const KEPT_ERROR_BYTES = 4096;

/** Compressed writes are of whole clusters (block/filter-compress.c), so an image has a whole number of them at first. */
export const ALIGNMENT_BYTES = 64 * 1024;

/** The version of the storage daemon, in its own words. Throws if there is none. */
export async function requireStorageDaemon(): Promise<string> {
	const {stdout} = await promisify(execFile)(PROGRAM, ['--version']).catch((cause: unknown) => {
		throw notStarted(cause);
	});
	return stdout.split('\n')[0] ?? '';
}

function notStarted(cause: unknown): QuiesceError {
	return new QuiesceError('FAILED', `cannot start ${PROGRAM}: ${asError(cause).message}`, {
		cause,
		hint: 'On Debian it is in the package qemu-system-common.',
	});
}

export interface DaemonImage {
	/** Of the export, and the stem of the daemon's node names. */
	readonly name: string;
	/** A qcow2 file that exists, of `sizeBytes` rounded up to {@link ALIGNMENT_BYTES}. */
	readonly path: string;
	/** Of what is served: the guest's disk, which may end in the middle of a cluster. */
	readonly sizeBytes: number;
	/** Compress what is written, by the method that the image names. Each cluster may then be written once only. */
	readonly compress: boolean;
	/** Keep account of which clusters are written, for {@link StorageDaemon.shareWrites}. */
	readonly recordsWrites?: boolean;
}

export interface ReadOnlyImage {
	/** Of the export, and of the daemon's node. */
	readonly name: string;
	/** A qcow2 file. */
	readonly path: string;
	/** `follow`: with the images that it names as its backing files, which are opened as it says. `alone`: without. */
	readonly chain: 'follow' | 'alone';
}

/** An export that tells in an NBD context which clusters were written. */
export interface SharedWrites {
	readonly exportName: string;
	/** Its flags have bit 0 where something was written. */
	readonly context: string;
}

/**
 * A `qemu-storage-daemon` of ours that opens images and serves them over NBD on a Unix socket. It is driven by QMP over
 * a socket that it inherits, so nobody else can reach its monitor. It runs as our user.
 */
export class StorageDaemon {
	/** Rejects when the daemon ends before it was told to, with what it said last. Never resolves. */
	readonly died: Promise<never>;
	readonly pid: number;
	/** Its monitor, for whoever has nodes of his own in it. Closed with the daemon. */
	readonly qmp: QmpConnection;
	readonly #child: ChildProcess;
	readonly #exit: Promise<unknown>;
	/** Images whose writes are shared. */
	readonly #sharing = new Set<string>();
	#told = false;

	private constructor(child: ChildProcess, pid: number, qmp: QmpConnection, said: () => string) {
		this.#child = child;
		this.pid = pid;
		this.qmp = qmp;
		this.#exit = once(child, 'exit');
		this.died = this.#exit.then(async () => {
			// What it said last may be read after its end is noticed.
			await immediate();
			if (this.#told) return await new Promise<never>(() => undefined);
			const how = child.signalCode === null ? `exit status ${child.exitCode ?? '?'}` : `signal ${child.signalCode}`;
			throw new QuiesceError('JOB_FAILED', `${PROGRAM} ended by itself (${how}): ${said() || 'it said nothing'}`);
		});
		this.died.catch(() => undefined);
	}

	/** Resolves once it serves `socketPath`, which must not exist; the caller removes it afterwards. */
	static async start(
		socketPath: string,
		options: {
			readonly record?: RecordMessage | undefined;
			/** If we are killed: by default it goes on, for a guest may be writing to it. `close`: in order, with its images. */
			readonly whenKilled?: 'die' | 'close' | undefined;
			/** Who may connect: whom the folder lets in, or nobody but our own user. */
			readonly access?: 'by-folder' | 'own-user' | undefined;
		} = {},
	): Promise<StorageDaemon> {
		// On the command line, because it is then there before anything can be asked of the daemon.
		const server = `addr.type=unix,addr.path=${socketPath.replaceAll(',', ',,')}`;
		const argv = ['--nbd-server', server, '--chardev', 'socket,id=quiesce,fd=3', '--monitor', 'chardev=quiesce'];
		const [program, args] =
			options.whenKilled === undefined
				? ([PROGRAM, argv] as const)
				: await dyingWithUs(PROGRAM, argv, options.whenKilled === 'die' ? 'KILL' : 'TERM');
		// The child gets it at once, so that nothing else is made with this mask.
		const mask = options.access === 'own-user' ? process.umask(0o177) : undefined;
		let child: ChildProcess;
		try {
			child = spawn(program, args, {
				stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
				// Ctrl-C is for us: jobs that write to the daemon are cancelled first.
				detached: true,
			});
		} finally {
			if (mask !== undefined) process.umask(mask);
		}
		const said = keepTail(child.stderr as Readable);
		try {
			await once(child, 'spawn');
		} catch (cause) {
			throw notStarted(cause);
		}
		const control = child.stdio[3];
		if (!(control instanceof net.Socket) || child.pid === undefined)
			throw new Error('the daemon has no control socket');
		try {
			const qmp = await QmpConnection.over(control, PROGRAM, {what: 'monitor of', record: options.record});
			return new StorageDaemon(child, child.pid, qmp, said);
		} catch (cause) {
			child.kill('SIGKILL');
			throw new QuiesceError('FAILED', `${PROGRAM} did not start: ${said() || asError(cause).message}`, {cause});
		}
	}

	/** Opens `image` and exports it, writable. */
	async serve(image: DaemonImage): Promise<void> {
		for (const node of nodesOf(image, false)) await this.qmp.execute('blockdev-add', node);
		if (image.recordsWrites) {
			await this.qmp.execute('block-dirty-bitmap-add', {...bitmapOf(image), granularity: ALIGNMENT_BYTES});
		}
		await this.qmp.execute('block-export-add', {
			'type': 'nbd',
			'id': image.name,
			'node-name': servedNode(image),
			'name': image.name,
			'writable': true,
		});
	}

	/**
	 * Exports an image that is served and records writes a second time, read-only, for as long as it is served. Nobody
	 * writes to it any more: what comes after this is not recorded.
	 */
	async shareWrites(image: DaemonImage): Promise<SharedWrites> {
		const bitmap = bitmapOf(image);
		const exportName = `${image.name}-writes`;
		// A read-only export takes none that is still recording.
		await this.qmp.execute('block-dirty-bitmap-disable', bitmap);
		await this.qmp.execute('block-export-add', {
			'type': 'nbd',
			'id': exportName,
			'node-name': bitmap.node,
			'name': exportName,
			'writable': false,
			'bitmaps': [bitmap],
		});
		this.#sharing.add(image.name);
		return {exportName, context: `qemu:dirty-bitmap:${bitmap.name}`};
	}

	/** Opens an image and exports it, read-only, with the NBD context `qemu:allocation-depth`. */
	async serveReadOnly({name, path, chain}: ReadOnlyImage): Promise<void> {
		await this.qmp.execute('blockdev-add', {
			'driver': 'qcow2',
			'node-name': name,
			'read-only': true,
			...(chain === 'alone' ? {backing: null} : {}),
			'file': {driver: 'file', filename: path},
		});
		await this.qmp.execute('block-export-add', {
			'type': 'nbd',
			'id': name,
			'node-name': name,
			'name': name,
			'writable': false,
			'allocation-depth': true,
		});
	}

	/** Closes what {@link serveReadOnly} opened. */
	async closeReadOnly({name}: Pick<ReadOnlyImage, 'name'>): Promise<void> {
		await this.#deleteExport(name);
		await this.qmp.execute('blockdev-del', {'node-name': name});
	}

	/**
	 * Closes the export and the image. Throws if what was written did not reach the disk: opening an image again
	 * read-only flushes it and tells, which closing does not (block.c bdrv_reopen_prepare, 6.1).
	 */
	async settle(image: DaemonImage): Promise<void> {
		await this.#deleteExport(image.name);
		if (this.#sharing.delete(image.name)) await this.#deleteExport(`${image.name}-writes`);
		if (image.recordsWrites) await this.qmp.execute('block-dirty-bitmap-remove', bitmapOf(image));
		const [file, ...above] = nodesOf(image, true);
		for (const node of above.reverse()) await this.qmp.execute('blockdev-del', {'node-name': node['node-name']});
		await this.qmp.execute('blockdev-reopen', {options: [file]});
		await this.qmp.execute('blockdev-del', {'node-name': file['node-name']});
	}

	/** Ends it once all images are settled: then nothing is lost if it has to be forced. */
	async stop(): Promise<void> {
		this.#told = true;
		this.qmp.execute('quit').catch(() => undefined);
		if (!(await this.#endsWithin(STOP_MS))) await this.kill();
		await this.qmp.close();
	}

	/** Ends it at once, with what it has not written. */
	async kill(): Promise<void> {
		this.#told = true;
		this.#child.kill('SIGKILL');
		await this.#endsWithin(KILL_MS);
		// One that could not be ended must not hold us back.
		this.#child.unref();
		this.#child.stderr?.destroy();
		await this.qmp.close();
	}

	/** Whoever uses it loses its connection. */
	async #deleteExport(id: string): Promise<void> {
		const deletion$ = this.qmp.on('BLOCK_EXPORT_DELETED').pipe(filter(({data}) => data.id === id));
		await Promise.all([
			firstValueFrom(deletion$, {defaultValue: undefined}),
			this.qmp.execute('block-export-del', {id, mode: 'hard'}),
		]);
	}

	async #endsWithin(ms: number): Promise<boolean> {
		const patience = new AbortController();
		const tooLate = delay(ms, false, {signal: patience.signal}).catch(() => false);
		const ended = await Promise.race([this.#exit.then(() => true), tooLate]);
		patience.abort();
		return ended;
	}
}

type NamedNode = QmpBlockdevOptions & {'node-name': string};

function servedNode(image: DaemonImage): string {
	return nodesOf(image, false).at(-1)?.['node-name'] ?? image.name;
}

/** On the node that is served, so that it has whatever goes through it, and no more bytes than the disk. */
function bitmapOf(image: DaemonImage): {node: string; name: string} {
	return {node: servedNode(image), name: 'writes'};
}

/** From the image's own node up to the one that is exported. */
function nodesOf({name, path, sizeBytes, compress}: DaemonImage, readOnly: boolean): [NamedNode, ...NamedNode[]] {
	const nodes: [NamedNode, ...NamedNode[]] = [
		{
			'driver': 'qcow2',
			'node-name': name,
			'read-only': readOnly,
			// What is zero need not be stored, wherever it lies in the guest's disk.
			'detect-zeroes': 'unmap',
			'discard': 'unmap',
			// What lies beneath is neither read nor locked: whole clusters are written.
			'backing': null,
			'file': {driver: 'file', filename: path},
		},
	];
	if (compress) nodes.push({'driver': 'compress', 'node-name': `${name}-zip`, 'file': name});
	if (sizeBytes % ALIGNMENT_BYTES !== 0) {
		nodes.push({
			'driver': 'raw',
			'node-name': `${name}-cut`,
			'size': sizeBytes,
			'file': compress ? `${name}-zip` : name,
		});
	}
	return nodes;
}

/** The last of what a child says, for its error. */
function keepTail(stream: Readable): () => string {
	let text = '';
	stream.setEncoding('utf8').on('data', part => {
		text = (text + String(part)).slice(-KEPT_ERROR_BYTES);
	});
	return () => text.trim();
}
