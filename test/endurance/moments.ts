import {EventEmitter, once} from 'node:events';
import {watch} from 'node:fs';
import {setTimeout as delay} from 'node:timers/promises';
import {vmFolder} from './points.ts';
import type {Random} from './random.ts';
import type {Stage} from './stage.ts';

/** When something befalls a run: so long after a message, after the point appears, or after its start. */
export interface Moment {
	readonly after: 'start' | 'planned' | 'cut' | 'settling' | 'point';
	readonly ms: number;
}

/** Near to where the run changes what it does; `usualMs` is how long one takes. */
export function someMoment(random: Random, usualMs: number): Moment {
	const after = random.pick<Moment['after']>(['start', 'start', 'planned', 'cut', 'settling', 'point', 'point']);
	if (after === 'start') return {after, ms: random.whole(0, Math.round(usualMs))};
	return {after, ms: random.whole(0, after === 'point' ? 60 : 300)};
}

export function momentWords({after, ms}: Moment): string {
	return `${ms} ms after ${after === 'point' ? 'the point appeared' : after}`;
}

/** Hears of what happens to a run. */
export class Watch implements Disposable {
	readonly #events = new EventEmitter();
	readonly #stop = new AbortController();

	/** For the program's lines of JSON. */
	readonly onLine = (line: string): void => {
		const type = /^\{"message_type": ?"(\w+)"/.exec(line)?.[1];
		if (type !== undefined) this.#events.emit(type);
	};

	constructor({vm}: Stage, repository: string) {
		try {
			// A point is there once its folder has got its name.
			watch(vmFolder(repository, vm.name), {signal: this.#stop.signal}, (event, name) => {
				if (event === 'rename' && name !== null && /^\d/.test(name)) this.#events.emit('point');
			}).on('error', () => undefined);
		} catch {
			// No point has been begun yet.
		}
	}

	/** False if the run ends before. */
	async comesTo({after, ms}: Moment, ended: Promise<unknown>): Promise<boolean> {
		const came =
			after === 'start'
				? Promise.resolve()
				: once(this.#events, after, {signal: this.#stop.signal}).catch(() => undefined);
		const over = ended.then(() => false);
		return Promise.race([over, came.then(() => delay(ms, true, {ref: false}))]);
	}

	[Symbol.dispose](): void {
		this.#stop.abort();
	}
}
