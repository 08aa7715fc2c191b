import {randomBytes} from 'node:crypto';
import {QmpCommandError, QmpTimeoutError} from './errors.ts';

interface Pending {
	readonly command: string;
	readonly resolve: (value: unknown) => void;
	readonly reject: (error: Error) => void;
	readonly timer: NodeJS.Timeout;
}

export interface QmpReply {
	readonly id: string;
	readonly return?: unknown;
	readonly error?: {readonly class: string; readonly desc: string};
}

/**
 * The commands that were sent and not answered. Their ids are unique across clients and runs, because QEMU hands the
 * reply of a client that left to the one that comes next. And they are short: QEMU reads a monitor a byte at a time
 * (`monitor_can_read`), and takes some microseconds for each.
 */
export class PendingCommands {
	readonly #prefix = `${randomBytes(6).toString('base64url')}-`;
	readonly #pending = new Map<string, Pending>();
	/** What QEMU has not answered, also where we gave up: it still fills QEMU's queue. */
	readonly #unanswered = new Set<string>();
	#last = 0;

	get inFlight(): number {
		return this.#unanswered.size;
	}

	/** The deadline starts here, so that a command which never gets its turn ends too. */
	add(
		command: string,
		deadlineMs: number,
		settle: {resolve: (value: unknown) => void; reject: (error: Error) => void},
	): string {
		const id = `${this.#prefix}${++this.#last}`;
		const timer = setTimeout(() => {
			this.#pending.delete(id);
			settle.reject(new QmpTimeoutError(command, deadlineMs));
		}, deadlineMs);
		this.#pending.set(id, {command, ...settle, timer});
		return id;
	}

	/** Counts `id` as in flight, unless it was given up before its turn: then it must not be sent any more. */
	take(id: string): boolean {
		if (!this.#pending.has(id)) return false;
		this.#unanswered.add(id);
		return true;
	}

	/** True if the reply was to one of these. One that comes after its deadline settles nothing. */
	settle(reply: QmpReply): boolean {
		if (!this.#unanswered.delete(reply.id)) return false;
		const pending = this.#pending.get(reply.id);
		if (!pending) return true;
		this.#pending.delete(reply.id);
		clearTimeout(pending.timer);
		if (reply.error) pending.reject(new QmpCommandError(pending.command, reply.error.class, reply.error.desc));
		else pending.resolve(reply.return);
		return true;
	}

	rejectAll(error: Error): void {
		for (const pending of this.#pending.values()) {
			clearTimeout(pending.timer);
			pending.reject(error);
		}
		this.#pending.clear();
		this.#unanswered.clear();
	}
}
