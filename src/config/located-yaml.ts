import {isNode, LineCounter, parseDocument} from 'yaml';
import {UsageError} from '../errors.ts';

/** Where in a document, from its root: names of members and places in lists. */
export type DocumentPath = readonly (string | number)[];

/** What a file says, and on which lines. */
export interface LocatedDocument {
	/** As `JSON.parse` would have it. */
	readonly value: unknown;
	/** The line of the innermost thing there is on the way to `path`, from 1. */
	readonly lineOf: (path: DocumentPath) => number;
}

/** Something that is wrong in a document. */
export interface DocumentProblem {
	readonly path: DocumentPath;
	readonly message: string;
}

/** An alias may be used so often: what it stands for is copied each time. */
const MAX_ALIASES = 100;

/** Reads YAML 1.2, of which JSON is a part. Throws `UsageError` with all that cannot be read, by `file` and line. */
export function parseYaml(text: string, file: string): LocatedDocument {
	const lines = new LineCounter();
	const document = parseDocument(text, {lineCounter: lines, prettyErrors: false, logLevel: 'silent'});
	const [error] = document.errors;
	if (error) throw new UsageError(`${file}:${lines.linePos(error.pos[0]).line}: ${error.message}`);
	let value: unknown;
	try {
		value = document.toJS({maxAliasCount: MAX_ALIASES});
	} catch (cause) {
		throw new UsageError(`${file}: ${cause instanceof Error ? cause.message : String(cause)}`, {cause});
	}
	return {
		value,
		lineOf: path => {
			for (let length = path.length; length >= 0; length--) {
				const found = length === 0 ? document.contents : document.getIn(path.slice(0, length), true);
				if (isNode(found) && found.range) return lines.linePos(found.range[0]).line;
			}
			return 1;
		},
	};
}

/** One error of all problems, by their lines. */
export function problemsError(
	what: string,
	file: string,
	problems: readonly DocumentProblem[],
	{lineOf}: Pick<LocatedDocument, 'lineOf'>,
): UsageError {
	const words = problems
		.map(({path, message}) => ({
			line: lineOf(path),
			words: path.length === 0 ? message : `${dotted(path)}: ${message}`,
		}))
		.sort((one, other) => one.line - other.line)
		.map(({line, words}) => `${file}:${line}: ${words}`);
	return words.length === 1 ? new UsageError(words[0] ?? what) : new UsageError(what, {problems: words});
}

function dotted(path: DocumentPath): string {
	return path
		.map((step, index) => (typeof step === 'number' ? `[${step}]` : `${index === 0 ? '' : '.'}${step}`))
		.join('');
}
