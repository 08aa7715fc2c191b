import {stripVTControlCharacters, styleText} from 'node:util';

type Style = Parameters<typeof styleText>[0];

/** Data: the result, and nothing else. */
export function printResult(text: string): void {
	process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
}

let writeWords: ((text: string) => void) | undefined;

/** From now on `write` is given the words for people, without colours, and stderr is not. */
export function divertWords(write: (text: string) => void): void {
	writeWords = write;
}

export function wordsAreDiverted(): boolean {
	return writeWords !== undefined;
}

/** Words for people. */
export function printNote(text: string): void {
	if (writeWords) writeWords(stripVTControlCharacters(text));
	else process.stderr.write(`${text}\n`);
}

/** Coloured where stderr shows colours (NO_COLOR and FORCE_COLOR are obeyed). */
export function styled(style: Style, text: string): string {
	return styleText(style, text, {stream: process.stderr});
}

export function printWarning(text: string): void {
	printNote(`${styled('yellow', 'warning:')} ${text}`);
}
