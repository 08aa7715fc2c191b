import {createHash, type Hash} from 'node:crypto';
import {once} from 'node:events';
import fs, {type FileHandle} from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import {pipeline} from 'node:stream/promises';
import zlib from 'node:zlib';
import {openPlainFile} from '../images/plain-file.ts';
import {MigrationError} from './errors.ts';

/** A migration stream in a file, compressed with zstd. */
export interface MemoryFile {
	/** Of the file. */
	readonly sha256: string;
	readonly storedBytes: number;
	/** Of the stream as QEMU wrote it, and reads it. */
	readonly plainSha256: string;
	readonly plainBytes: number;
}

/** Of which QEMU knows the path. */
export interface MemorySocket {
	readonly folder: string;
	/** The user that QEMU runs as, where it is another than ours. */
	readonly qemuUid?: number | undefined;
}

const SOCKET = 'memory.sock';
const INCOMING = 'incoming';
const CHUNK_BYTES = 256 * 1024;
/** The fastest: the guest may wait for it. Zeroes are hardly in the stream anyway. */
const LEVEL = 1;

/** A file that a migration stream is written to. Whoever opens it closes it. */
export interface MemoryReceiver {
	/** What to tell QEMU. */
	readonly uri: string;
	/** Bytes of the stream that have come so far. */
	readonly received: () => number;
	/** Resolves once all has come and is on the disk, for whoever knows that it is all; rejects if it cannot be written. */
	readonly written: Promise<MemoryFile>;
	/** Ends the connection, and resolves once nothing is written any more. The file stays. */
	readonly close: () => Promise<void>;
}

/** Takes one connection, and writes what comes over it to a new file. No more than is written is read: QEMU waits. */
export async function receiveMemory(where: MemorySocket, file: string): Promise<MemoryReceiver> {
	const handle = await fs.open(file, 'wx', 0o600);
	const door = await listen(where).catch(async (error: unknown) => {
		await handle.close();
		throw error;
	});
	const plain = new Tally();
	const stored = new Tally();
	const write = async (): Promise<MemoryFile> => {
		try {
			const socket = await door.connected;
			await pipeline(
				socket,
				chunks => plain.count(chunks as AsyncIterable<Buffer>),
				zlib.createZstdCompress({
					chunkSize: CHUNK_BYTES,
					params: {
						[zlib.constants.ZSTD_c_compressionLevel]: LEVEL,
						[zlib.constants.ZSTD_c_checksumFlag]: 1,
					},
				}),
				chunks => handle.writeFile(stored.count(chunks as AsyncIterable<Buffer>)),
			);
			await handle.sync();
		} finally {
			await handle.close();
		}
		return {
			sha256: stored.digest(),
			storedBytes: stored.bytes,
			plainSha256: plain.digest(),
			plainBytes: plain.bytes,
		};
	};
	const written = write();
	// Whoever does not wait for it closes it.
	written.catch(() => undefined);
	return {
		uri: door.uri,
		received: () => plain.bytes,
		written,
		close: async () => {
			await door.close();
			await written.catch(() => undefined);
		},
	};
}

/** A file that QEMU is given a migration stream from. Whoever opens it closes it. */
export interface MemorySender {
	/** What to tell QEMU: it listens there. */
	readonly uri: string;
	/** Bytes of the stream that have gone so far. */
	readonly sent: () => number;
	/**
	 * Once QEMU listens. Resolves when all has gone; rejects, with QEMU lacking the end, if it is not what was saved.
	 */
	readonly send: () => Promise<void>;
	/** Ends the connection, and resolves once nothing is read any more. */
	readonly close: () => Promise<void>;
}

/**
 * Opens a file that was saved. The last of it is held back until all of it is known to be what was saved: QEMU cannot
 * finish without.
 */
export async function openMemory(where: MemorySocket, file: string, saved: MemoryFile): Promise<MemorySender> {
	// QEMU makes the socket, so it needs a folder to make it in; nobody else may come near it.
	const folder = path.join(where.folder, INCOMING);
	await fs.mkdir(folder, {mode: 0o700});
	await letIn(where, folder);
	const handle = await openPlainFile(file);
	const plain = new Tally();
	let sending: Promise<void> = Promise.resolve();
	let socket: net.Socket | undefined;
	const give = async (): Promise<void> => {
		socket = net.connect(path.join(folder, SOCKET));
		// QEMU sends nothing; what ends the connection is seen by what is written.
		socket.resume();
		await pipeline(
			blocksOf(handle),
			zlib.createZstdDecompress({chunkSize: CHUNK_BYTES}),
			chunks => checked(chunks as AsyncIterable<Buffer>, plain, saved, file),
			socket,
		);
	};
	return {
		uri: `unix:${path.join(folder, SOCKET)}`,
		sent: () => plain.bytes,
		send: () => {
			sending = give();
			return sending;
		},
		close: async () => {
			socket?.destroy();
			await sending.catch(() => undefined);
			await handle.close();
			await fs.rm(folder, {recursive: true, force: true});
		},
	};
}

async function* blocksOf(handle: FileHandle): AsyncGenerator<Buffer> {
	for (;;) {
		const {buffer, bytesRead} = await handle.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES, null);
		if (bytesRead === 0) return;
		yield buffer.subarray(0, bytesRead);
	}
}

async function* checked(
	chunks: AsyncIterable<Buffer>,
	plain: Tally,
	{plainBytes, plainSha256}: MemoryFile,
	file: string,
): AsyncGenerator<Buffer> {
	let held: Buffer | undefined;
	for await (const chunk of plain.count(chunks)) {
		if (plain.bytes > plainBytes) throw new MigrationError(`${file} holds more than what was saved`);
		if (held) yield held;
		held = chunk;
	}
	if (plain.bytes !== plainBytes || plain.digest() !== plainSha256) {
		throw new MigrationError(`${file} does not hold what was saved`);
	}
	if (held) yield held;
}

class Tally {
	bytes = 0;
	readonly #hash: Hash = createHash('sha256');

	async *count(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
		for await (const chunk of chunks) {
			this.#hash.update(chunk);
			this.bytes += chunk.length;
			yield chunk;
		}
	}

	/** Once. */
	digest(): string {
		return this.#hash.digest('hex');
	}
}

interface Door {
	readonly uri: string;
	readonly connected: Promise<net.Socket>;
	close(): Promise<void>;
}

/** For one connection, which only this user and QEMU's can make. */
async function listen(where: MemorySocket): Promise<Door> {
	const unix = path.join(where.folder, SOCKET);
	const {promise: connected, resolve, reject} = Promise.withResolvers<net.Socket>();
	connected.catch(() => undefined);
	let socket: net.Socket | undefined;
	const server = net.createServer(client => {
		if (socket) {
			client.destroy();
			return;
		}
		socket = client;
		client.on('error', () => undefined);
		resolve(client);
		server.close();
	});
	server.listen(unix);
	await once(server, 'listening');
	// Only this user may enter the folder until then.
	await fs.chmod(unix, 0o600);
	await letIn(where, unix);
	return {
		uri: `unix:${unix}`,
		connected,
		close: async () => {
			reject(new MigrationError('QEMU never came for the memory'));
			socket?.destroy();
			if (!server.listening) return;
			server.close();
			await once(server, 'close');
		},
	};
}

/** Lets QEMU in where it runs as another user: to this alone. */
async function letIn({folder, qemuUid}: MemorySocket, it: string): Promise<void> {
	if (qemuUid === undefined) return;
	await fs.chown(it, qemuUid, -1);
	await fs.chmod(folder, 0o711);
}
