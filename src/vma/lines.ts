import {VmaIndexError} from './errors.ts';

const LINE_FEED = 0x0a;

/** The lines of a text, without their line feeds. What follows the last line feed is a line too, unless it is nothing. */
export async function* linesOf(source: AsyncIterable<Buffer>, maxBytes: number): AsyncGenerator<string, void, void> {
	let parts: Buffer[] = [];
	let length = 0;
	for await (const chunk of source) {
		let from = 0;
		for (let to = chunk.indexOf(LINE_FEED); to !== -1; to = chunk.indexOf(LINE_FEED, from)) {
			yield Buffer.concat([...parts, chunk.subarray(from, to)]).toString('utf8');
			parts = [];
			length = 0;
			from = to + 1;
		}
		parts.push(chunk.subarray(from));
		length += chunk.length - from;
		if (length > maxBytes) throw new VmaIndexError(`is damaged: a line has more than ${maxBytes} bytes`);
	}
	if (length > 0) yield Buffer.concat(parts).toString('utf8');
}
