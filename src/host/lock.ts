import {createHash} from 'node:crypto';
import net from 'node:net';
import * as v from 'valibot';
import {errnoOf, QuiesceError} from '../errors.ts';

/** How long either side waits for the other's line. */
const PATIENCE_MS = 5_000;

/** What a lock's holder says of itself to those who find it taken. */
export interface LockHolder {
	readonly pid: number;
	readonly run: string;
	/** For people: `backup since 08:00`. */
	readonly doing: string;
}

/** Any user of this host can take the name, and say what must not reach a terminal. */
const Words = v.pipe(v.string(), v.regex(/^\P{C}{1,200}$/u));
const Holder = v.pipe(v.string(), v.parseJson(), v.object({pid: v.number(), run: Words, doing: Words}));

/** Something else holds the lock. */
export class LockedError extends QuiesceError {
	readonly holder: LockHolder | undefined;

	constructor(what: string, holder: LockHolder | undefined) {
		const by = holder ? `${holder.doing} (run ${holder.run}, process ${holder.pid})` : 'another process';
		super('LOCKED', `${what} is in use by ${by}`, {
			hint: 'Wait until that run has ended, or end it. `quiesce thaw` ends a freeze that lasts.',
		});
		this.holder = holder;
	}
}

/** Holds the name until `release` or the death of this process, whatever its cause: there are no stale locks. */
export interface HostLock {
	/** Resolves when another may take it. */
	release(): Promise<void>;
}

/**
 * Takes a host-wide lock: an abstract Unix socket (unix(7)) whose name is made from `key`. Throws {@link LockedError}.
 * `onRequest` answers a line sent by {@link askHolder}; the holder says who it is to an empty one.
 */
export async function takeLock(
	key: string,
	what: string,
	holder: LockHolder,
	onRequest?: (line: string) => Promise<string>,
): Promise<HostLock> {
	const clients = new Set<net.Socket>();
	const server = net.createServer({allowHalfOpen: true}, client => {
		clients.add(client);
		client.unref();
		client.on('error', () => undefined);
		client.once('close', () => clients.delete(client));
		readLine(client, PATIENCE_MS)
			.then(line => (line === '' || !onRequest ? JSON.stringify(holder) : onRequest(line)))
			.then(answer => {
				client.write(`${answer}\n`);
				client.destroySoon();
			})
			.catch(() => client.destroy());
	});
	server.unref();
	try {
		await new Promise<void>((resolve, reject) => {
			server.once('error', reject);
			server.listen({path: nameOf(key)}, resolve);
		});
	} catch (error) {
		if (errnoOf(error) !== 'EADDRINUSE') throw error;
		throw new LockedError(what, await holderOf(key));
	}
	// A client that could not be accepted asks in vain; the lock is held all the same.
	server.on('error', () => undefined);
	return {
		release: () =>
			new Promise(resolve => {
				server.close(() => {
					resolve();
				});
				for (const client of clients) client.destroySoon();
			}),
	};
}

/** True if some process of this host holds the lock. */
export async function isLocked(key: string): Promise<boolean> {
	return (await askHolder(key, '')) !== undefined;
}

async function holderOf(key: string): Promise<LockHolder | undefined> {
	try {
		return v.parse(Holder, await askHolder(key, ''));
	} catch {
		// Whatever holds it speaks another language: it is held all the same.
		return undefined;
	}
}

/**
 * Sends a line to the holder. Returns its answer, an empty one if it does not speak in time, or undefined if nobody
 * holds the lock.
 */
export async function askHolder(key: string, line: string, patienceMs = PATIENCE_MS): Promise<string | undefined> {
	const client = net.connect({path: nameOf(key)});
	try {
		await new Promise<void>((resolve, reject) => {
			client.once('error', reject);
			client.once('connect', resolve);
		});
	} catch (error) {
		if (errnoOf(error) === 'ECONNREFUSED') return undefined;
		return '';
	}
	client.on('error', () => undefined);
	client.end(`${line}\n`);
	const answer = await readLine(client, patienceMs).catch(() => '');
	client.destroy();
	return answer;
}

/** The first line, up to a length and a time that no honest peer reaches. */
function readLine(socket: net.Socket, patienceMs: number): Promise<string> {
	return new Promise((resolve, reject) => {
		let text = '';
		const timer = setTimeout(() => {
			reject(new Error('no line in time'));
		}, patienceMs);
		timer.unref();
		socket.setEncoding('utf8');
		const onData = (part: unknown): void => {
			text += String(part);
			const end = text.indexOf('\n');
			if (end >= 0) resolve(text.slice(0, end));
			else if (text.length > 4096) reject(new Error('line too long'));
			else return;
			clearTimeout(timer);
			socket.removeListener('data', onData);
		};
		socket.on('data', onData);
		socket.once('close', () => {
			clearTimeout(timer);
			reject(new Error('closed before a line'));
		});
	});
}

function nameOf(key: string): string {
	return `\0quiesce-${createHash('sha256').update(key).digest('hex').slice(0, 32)}`;
}
