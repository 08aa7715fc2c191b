import {createHash, type Hash} from 'node:crypto';
import {VmaIndexError} from './errors.ts';
import {decodeEntry, ENTRY_BYTES, EXTENT_HEADER_BYTES, type VmaEntry, type VmaExtent} from './extent.ts';
import {BLOCK_BYTES, blocksIn} from './geometry.ts';
import {HEADER} from './header.ts';
import {type IndexHead, parseHead, parseSummary, sectionIn} from './index-document.ts';
import {decodeSection, MAX_BASE64_CHARACTERS} from './index-section.ts';
import {linesOf} from './lines.ts';

/** A line has a section, or the names of all devices. */
const MAX_LINE_BYTES = Math.max(MAX_BASE64_CHARACTERS, 64 * 1024 * 1024);

/** What an index tells of an extent. */
export interface IndexedExtent extends VmaExtent {
	/** Of what is stored of each entry. */
	readonly checksums: readonly number[];
}

/** An index that is read from its beginning to its end, once, with no more than a section of it in memory. */
export class VmaIndexReader {
	readonly head: IndexHead;
	readonly #lines: AsyncGenerator<string, void, void>;
	readonly #hash: Hash;

	private constructor(head: IndexHead, lines: AsyncGenerator<string, void, void>, hash: Hash) {
		this.head = head;
		this.#lines = lines;
		this.#hash = hash;
	}

	/** Reads the first line. Throws {@link VmaIndexError}, or the source's error. */
	static async open(source: AsyncIterable<Buffer>): Promise<VmaIndexReader> {
		const lines = linesOf(source, MAX_LINE_BYTES);
		const first = await lines.next();
		if (first.done) throw new VmaIndexError('is empty');
		const hash = createHash('sha256').update(`${first.value}\n`);
		return new VmaIndexReader(parseHead(first.value), lines, hash);
	}

	/** Throws if the archive with this header is another one. */
	requireFor(encoded: Buffer): void {
		if (this.head.headerMd5 !== encoded.toString('hex', HEADER.md5At, HEADER.blobsAt)) {
			throw new VmaIndexError('is that of another archive: the headers differ');
		}
	}

	/** The extents in their order, and in the end how long the archive is. Throws where the index turns out to be damaged. */
	async *extents(): AsyncGenerator<IndexedExtent, number, void> {
		let offset = this.head.headerBytes;
		let extents = 0;
		let clusters = 0;
		for await (const line of this.#lines) {
			const section = sectionIn(line);
			if (section === undefined) {
				const summary = parseSummary(line);
				const isWhole =
					summary.sha256 === this.#hash.digest('hex') &&
					summary.archiveBytes === offset &&
					summary.extents === extents &&
					summary.clusters === clusters;
				if (!isWhole) throw new VmaIndexError('is damaged: its last line is not of what comes before');
				return offset;
			}
			this.#hash.update(`${line}\n`);
			for (const extent of decodeSection(section)) {
				const entries = decodeEntries(extent.entries);
				const dataBytes = entries.reduce((sum, {mask}) => sum + blocksIn(mask), 0) * BLOCK_BYTES;
				yield {offset, entries, dataBytes, checksums: extent.checksums};
				offset += EXTENT_HEADER_BYTES + dataBytes;
				extents++;
				clusters += entries.length;
			}
		}
		throw new VmaIndexError('is incomplete: its last line is missing');
	}

	/** Reads no more of it. */
	async close(): Promise<void> {
		await this.#lines.return();
	}
}

function decodeEntries(bytes: Buffer): VmaEntry[] {
	const entries: VmaEntry[] = [];
	for (let at = 0; at < bytes.length; at += ENTRY_BYTES) entries.push(decodeEntry(bytes, at));
	return entries;
}
