import {CancelledError} from '../errors.ts';
import {printNote} from './terminal.ts';

const EXIT_STATUS = {SIGINT: 130, SIGTERM: 143, SIGHUP: 129} as const;
type EndingSignal = keyof typeof EXIT_STATUS;

export interface Cancellation {
	readonly signal: AbortSignal;
	/** From here on a signal is the ordinary end, and what is said of it is this. */
	endsWith(words: string): void;
	/** The status that the signal which came asks for. */
	exitStatus(): number | undefined;
	dispose(): void;
}

/** The first of these signals cancels, and what was begun is undone; the second one ends the program at once. */
export function cancelOnSignals(): Cancellation {
	const controller = new AbortController();
	let first: EndingSignal | undefined;
	let words = 'cancelled: undoing what was begun (once more to stop at once)';
	const onSignal = (name: EndingSignal): void => {
		if (first !== undefined) {
			printNote(
				'stopped at once. The guard thaws a frozen guest within two seconds, and then undoes what else is left; ' +
					'`quiesce recover` does it too',
			);
			process.exit(EXIT_STATUS[name]);
		}
		first = name;
		printNote(words);
		controller.abort(new CancelledError());
	};
	const names = Object.keys(EXIT_STATUS) as EndingSignal[];
	for (const name of names) process.on(name, onSignal);
	return {
		signal: controller.signal,
		endsWith: text => {
			words = text;
		},
		exitStatus: () => (first === undefined ? undefined : EXIT_STATUS[first]),
		dispose: () => {
			for (const name of names) process.removeListener(name, onSignal);
		},
	};
}
