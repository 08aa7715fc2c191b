import {QmpConnection} from '../../../src/qmp/connection.ts';

interface Pause {
	readonly from: number;
	readonly to?: number;
}

/** Looks on from a monitor of its own: the clock of a paused guest stands still, so its writer does not see a pause. */
export class PauseWatch {
	readonly #qmp: QmpConnection;
	readonly #pauses: Pause[] = [];

	private constructor(qmp: QmpConnection) {
		this.#qmp = qmp;
		qmp.events$.subscribe({
			next: ({event}: {readonly event: string}) => {
				const last = this.#pauses.at(-1);
				const isPaused = last !== undefined && last.to === undefined;
				if (event === 'STOP' && !isPaused) this.#pauses.push({from: performance.now()});
				if (event === 'RESUME' && isPaused) this.#pauses.splice(-1, 1, {...last, to: performance.now()});
			},
			// QEMU has ended.
			error: () => undefined,
		});
	}

	static async open(path: string): Promise<PauseWatch> {
		return new PauseWatch(await QmpConnection.open({unix: path}));
	}

	/** The longest pause that ended after `since`, or that goes on, in milliseconds. */
	longestSince(since: number): number {
		const now = performance.now();
		const lengths = this.#pauses.filter(({to = now}) => to > since).map(({from, to = now}) => to - from);
		return Math.max(0, ...lengths);
	}

	close(): Promise<void> {
		return this.#qmp.close();
	}
}
