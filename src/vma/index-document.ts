import * as v from 'valibot';
import {asError} from '../errors.ts';
import {VmaIndexError} from './errors.ts';

/**
 * An index is a JSON document that is made so that it can be written and read line by line: its first line has the members
 * below, and opens `sections`; each line that follows is a string in there; the last one closes it and has `summary`.
 */
export const INDEX_FORMAT = 1;

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

const headSchema = v.object({
	format: v.number(),
	uuid: v.string(),
	/** In the archive's header: it belongs to this index if it has the same. */
	headerMd5: v.string(),
	headerBytes: count,
	createdSeconds: v.pipe(v.number(), v.safeInteger()),
	devices: v.array(v.object({id: count, name: v.string(), sizeBytes: count})),
});
export type IndexHead = v.InferOutput<typeof headSchema>;

const summarySchema = v.object({
	archiveBytes: count,
	extents: count,
	/** Of all devices, zeroes included. */
	clusters: count,
	/** Of all lines before this one, the line breaks included. */
	sha256: v.string(),
});
export type IndexSummary = v.InferOutput<typeof summarySchema>;

export function formatHead(head: IndexHead): string {
	return `${JSON.stringify(head).slice(0, -1)},"sections":[\n`;
}

export function formatSummary(summary: IndexSummary): string {
	return `],"summary":${JSON.stringify(summary)}}\n`;
}

export function parseHead(line: string): IndexHead {
	const head = parse(headSchema, `${line}]}`, 'its first line');
	if (head.format > INDEX_FORMAT) {
		throw new VmaIndexError(`has format ${head.format}, and this program reads ${INDEX_FORMAT}`);
	}
	return head;
}

/** The base64 of a section, or undefined if the line is the last one. */
export function sectionIn(line: string): string | undefined {
	if (line.startsWith(']')) return undefined;
	const section = /^,?"(?<base64>[A-Za-z0-9+/]+={0,2})"$/.exec(line)?.groups?.['base64'];
	if (section === undefined) throw new VmaIndexError('is damaged: a line is no section');
	return section;
}

export function parseSummary(line: string): IndexSummary {
	return parse(v.object({summary: summarySchema}), `{"sections":[${line}`, 'its last line').summary;
}

function parse<Value>(schema: v.GenericSchema<unknown, Value>, text: string, what: string): Value {
	let value: unknown;
	try {
		value = JSON.parse(text);
	} catch (error) {
		throw new VmaIndexError(`is damaged: ${what} is no JSON: ${asError(error).message}`, {cause: error});
	}
	const parsed = v.safeParse(schema, value);
	if (parsed.success) return parsed.output;
	const [issue] = parsed.issues;
	throw new VmaIndexError(`is damaged: ${what}: ${v.getDotPath(issue) ?? ''}: ${issue.message}`);
}
