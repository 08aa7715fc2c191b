import {createHash} from 'node:crypto';
import {ENTRIES_AT, ENTRY_BYTES} from './extent.ts';
import {HEADER, type VmaHeader} from './header.ts';
import {formatHead, formatSummary, INDEX_FORMAT} from './index-document.ts';
import {encodeSection, MAX_EXTENTS, type SectionExtent} from './index-section.ts';

/** Makes the index of an archive while that is written or read: extents are added in the order that they have in it. */
export class VmaIndexEncoder {
	readonly #head: string;
	readonly #hash = createHash('sha256');
	#section: SectionExtent[] = [];
	#separator = '';
	#extents = 0;
	#clusters = 0;

	/** `encoded` is the header as it stands in the archive. */
	constructor({uuid, createdSeconds, devices}: VmaHeader, encoded: Buffer) {
		this.#head = formatHead({
			format: INDEX_FORMAT,
			uuid,
			headerMd5: encoded.toString('hex', HEADER.md5At, HEADER.blobsAt),
			headerBytes: encoded.length,
			createdSeconds,
			devices: devices.map(({id, name, sizeBytes}) => ({id, name, sizeBytes})),
		});
	}

	begin(): Buffer {
		return this.#text(this.#head);
	}

	/** Its entries are the first in `header`; there is a checksum for each. Returns what can be written of the index. */
	add(header: Buffer, checksums: readonly number[]): Buffer | undefined {
		const entries = header.subarray(ENTRIES_AT, ENTRIES_AT + checksums.length * ENTRY_BYTES);
		this.#section.push({entries, checksums});
		this.#extents++;
		this.#clusters += checksums.length;
		return this.#section.length === MAX_EXTENTS ? this.#endSection() : undefined;
	}

	/** The rest: the archive is complete. */
	end(archiveBytes: number): Buffer {
		const section = this.#section.length > 0 ? this.#endSection() : Buffer.alloc(0);
		const summary = formatSummary({
			archiveBytes,
			extents: this.#extents,
			clusters: this.#clusters,
			sha256: this.#hash.digest('hex'),
		});
		return Buffer.concat([section, Buffer.from(summary)]);
	}

	#endSection(): Buffer {
		const line = `${this.#separator}"${encodeSection(this.#section)}"\n`;
		this.#section = [];
		this.#separator = ',';
		return this.#text(line);
	}

	#text(text: string): Buffer {
		this.#hash.update(text);
		return Buffer.from(text);
	}
}
