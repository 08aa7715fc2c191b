import * as v from 'valibot';
import {QuiesceError} from '../errors.ts';

/** Reads a JSON document of ours that bears `format`. Throws `DAMAGED` with the reason; `what` names it in the message. */
export function parseDocument<Value>(
	schema: v.GenericSchema<unknown, Value>,
	format: number,
	text: string,
	what: string,
): Value {
	const value = parseJson(text, what);
	const found = v.safeParse(v.object({format: v.number()}), value);
	if (found.success && found.output.format > format) {
		throw new QuiesceError('DAMAGED', `${what} has format ${found.output.format}, and this program reads ${format}`, {
			hint: 'It was written by a newer quiesce. Use that one, or a newer one.',
		});
	}
	const parsed = v.safeParse(schema, value);
	if (parsed.success) return parsed.output;
	const [issue] = parsed.issues;
	const member = v.getDotPath(issue);
	throw new QuiesceError('DAMAGED', `${what} cannot be read: ${member === null ? '' : `${member}: `}${issue.message}`);
}

export function formatDocument(value: object): string {
	return `${JSON.stringify(value, undefined, '\t')}\n`;
}

/** Throws `DAMAGED`; `what` names it in the message. */
export function parseJson(text: string, what: string): unknown {
	try {
		return JSON.parse(text);
	} catch (error) {
		throw new QuiesceError('DAMAGED', `${what} is not JSON`, {cause: error});
	}
}
