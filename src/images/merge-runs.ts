import type {HashRecord} from './hash-records.ts';

/** Puts neighbours with the same content into one record, as they are handed over in order. */
export class RunMerger {
	#open: HashRecord | undefined;

	/** Returns the record that this one does not go on, which is complete. */
	add(record: HashRecord): HashRecord | undefined {
		const open = this.#open;
		if (open && continues(open, record)) {
			this.#open = {...open, clusters: open.clusters + record.clusters};
			return undefined;
		}
		this.#open = record;
		return open;
	}

	/** The last record, if there is any. */
	end(): HashRecord | undefined {
		const open = this.#open;
		this.#open = undefined;
		return open;
	}
}

function continues(record: HashRecord, next: HashRecord): boolean {
	if (record.firstCluster + record.clusters !== next.firstCluster) return false;
	if (record.content === 'zero' || next.content === 'zero') return record.content === next.content;
	return record.content.equals(next.content);
}
