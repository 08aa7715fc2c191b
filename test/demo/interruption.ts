import {readdirSync, readFileSync} from 'node:fs';

const STATUS = {SIGINT: 130, SIGTERM: 143, SIGHUP: 129} as const;

/** A signal came, or the reader of our output has gone. */
export class Interrupted extends Error {
	readonly status: number;

	constructor(what: string, status: number) {
		super(what);
		this.status = status;
	}
}

/** Aborted with {@link Interrupted} by the first signal; later ones do nothing, since cleaning up does not take long. */
export function interruptedBySignals(): AbortSignal {
	const controller = new AbortController();
	const interrupt = (what: string, status: number): void => {
		controller.abort(new Interrupted(what, status));
	};
	for (const [name, status] of Object.entries(STATUS)) {
		process.on(name, () => {
			interrupt(`interrupted by ${name}`, status);
		});
	}
	process.stdout.on('error', () => {
		interrupt('nobody reads the output', 1);
	});
	return controller.signal;
}

/** Asks every child of this process to end, so that whoever waits for one goes on. */
export function endChildren(): void {
	for (const pid of children()) {
		try {
			process.kill(pid, 'SIGTERM');
		} catch {
			// It has ended meanwhile.
		}
	}
}

/** None where the kernel does not tell; what waits for a child then waits for its end. */
function children(): number[] {
	try {
		return readdirSync('/proc/self/task').flatMap(thread =>
			readFileSync(`/proc/self/task/${thread}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
		);
	} catch {
		return [];
	}
}
