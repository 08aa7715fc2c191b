import {UsageError} from '../../errors.ts';
import {type ArgumentProblem, checkArguments} from '../../qmp/check-arguments.ts';
import type {QmpSchema} from '../../qmp/introspection.ts';
import {parseKeyValues} from '../../qmp/key-values.ts';

/** A command that is to be sent, which the schema has nothing against. */
export interface CheckedCommand {
	readonly command: string;
	readonly args: Record<string, unknown>;
}

/** From `command key=value…`. Throws `UsageError` with all that the schema has against it. */
export function checkedCommand(schema: QmpSchema, [command = '', ...words]: readonly string[]): CheckedCommand {
	return checked(schema, command, parseKeyValues(schema, command, words));
}

/** From the arguments as they are. */
export function checked(schema: QmpSchema, command: string, args: Record<string, unknown>): CheckedCommand {
	const problems = checkArguments(schema, command, args);
	if (problems.length === 0) return {command, args};
	throw new UsageError(`${command} was not sent: ${problems.map(describe).join('; ')}`);
}

function describe({path, message}: ArgumentProblem): string {
	return path.length === 0 ? message : `${path.join('.')}: ${message}`;
}

/** As a shell takes a line apart, in its plainest form: quotes hold words together. Throws `UsageError` where one is left open. */
export function splitWords(line: string): string[] {
	const words: string[] = [];
	let word: string | undefined;
	let quote: string | undefined;
	for (const letter of line) {
		if (quote !== undefined) {
			if (letter === quote) quote = undefined;
			else word = (word ?? '') + letter;
		} else if (letter === "'" || (letter === '"' && (word === undefined || !/[[{]/.test(word)))) {
			quote = letter;
			word ??= '';
		} else if (/\s/.test(letter) && !isOpenJson(word)) {
			if (word !== undefined) words.push(word);
			word = undefined;
		} else {
			word = (word ?? '') + letter;
		}
	}
	if (quote !== undefined) throw new UsageError(`a quote is not closed: ${line}`);
	return word === undefined ? words : [...words, word];
}

/** JSON may have blanks in it. */
function isOpenJson(word: string | undefined): boolean {
	const json = word === undefined ? undefined : /(?:^|=)([[{].*)$/s.exec(word)?.[1];
	if (json === undefined) return false;
	try {
		JSON.parse(json);
		return false;
	} catch {
		return true;
	}
}
