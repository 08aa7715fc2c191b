import {formatBytes, formatSeconds} from './quantities.ts';
import {printNote, wordsAreDiverted} from './terminal.ts';

export interface ProgressItem {
	readonly name: string;
	readonly doneBytes: number;
	readonly totalBytes: number;
}

/** Shows how far a long piece of work is, on stderr. */
export interface ProgressView {
	show(items: readonly ProgressItem[]): void;
	/** A line of words that stays. */
	note(text: string): void;
	/** The same, also if `quiet`: what the operator has to know. */
	warn(text: string): void;
	end(): void;
}

const PLAIN_EVERY_MS = 30_000;
const BAR_CELLS = 24;

/** A view for this stderr: redrawn lines on a terminal, a plain line every 30 s elsewhere, only warnings if `quiet`. */
export function openProgressView(quiet: boolean): ProgressView {
	if (quiet) return {show: () => undefined, note: () => undefined, warn: printNote, end: () => undefined};
	return process.stderr.isTTY && !wordsAreDiverted() ? new RedrawnLines() : new PlainLines();
}

class RedrawnLines implements ProgressView {
	readonly #rates = new Rates();
	#drawn = 0;

	show(items: readonly ProgressItem[]): void {
		this.#erase();
		const width = Math.max(...items.map(({name}) => name.length));
		const columns = process.stderr.columns || 80;
		for (const item of items) {
			const line = `${item.name.padEnd(width)} ${bar(item)} ${describe(item, this.#rates.of(item))}`;
			printNote(line.slice(0, columns - 1));
		}
		this.#drawn = items.length;
	}

	note(text: string): void {
		this.#erase();
		printNote(text);
	}

	warn(text: string): void {
		this.note(text);
	}

	end(): void {
		this.#drawn = 0;
	}

	#erase(): void {
		if (this.#drawn > 0) process.stderr.write(`\u001b[${this.#drawn}A\u001b[J`);
		this.#drawn = 0;
	}
}

/** SIGUSR1 asks for a line now. */
class PlainLines implements ProgressView {
	readonly #rates = new Rates();
	readonly #onSignal = (): void => {
		this.#print();
	};
	#last: readonly ProgressItem[] = [];
	#printedAt = Date.now();

	constructor() {
		process.on('SIGUSR1', this.#onSignal);
	}

	show(items: readonly ProgressItem[]): void {
		this.#last = items;
		if (Date.now() - this.#printedAt >= PLAIN_EVERY_MS) this.#print();
	}

	note(text: string): void {
		printNote(text);
	}

	warn(text: string): void {
		printNote(text);
	}

	end(): void {
		process.removeListener('SIGUSR1', this.#onSignal);
	}

	#print(): void {
		this.#printedAt = Date.now();
		for (const item of this.#last) printNote(`${item.name}: ${describe(item, this.#rates.of(item))}`);
	}
}

/** Average speeds since the first sight of each item. */
class Rates {
	readonly #began = new Map<string, {atMs: number; bytes: number}>();

	of({name, doneBytes}: ProgressItem): number {
		const began = this.#began.get(name) ?? {atMs: Date.now(), bytes: doneBytes};
		this.#began.set(name, began);
		const seconds = (Date.now() - began.atMs) / 1000;
		return seconds < 0.5 ? 0 : (doneBytes - began.bytes) / seconds;
	}
}

function bar({doneBytes, totalBytes}: ProgressItem): string {
	const filled = totalBytes === 0 ? BAR_CELLS : Math.floor((doneBytes / totalBytes) * BAR_CELLS);
	return `[${'#'.repeat(Math.min(filled, BAR_CELLS))}${'.'.repeat(Math.max(0, BAR_CELLS - filled))}]`;
}

function describe({doneBytes, totalBytes}: ProgressItem, rate: number): string {
	const percent = totalBytes === 0 ? 100 : Math.floor((doneBytes / totalBytes) * 100);
	const done = `${String(percent).padStart(3)} %  ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
	if (rate <= 0 || doneBytes >= totalBytes) return done;
	return `${done}  ${formatBytes(rate)}/s  ${formatSeconds((totalBytes - doneBytes) / rate)} left`;
}
