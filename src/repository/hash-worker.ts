import {createHash} from 'node:crypto';
import fs from 'node:fs';
import {parentPort, workerData} from 'node:worker_threads';

/** What a worker says of its file: how many bytes it has read so far, and at the end the hash. */
export interface HashReport {
	readonly bytes: number;
	readonly sha256?: string;
	/** Instead of a hash: the system's name of the error. */
	readonly failed?: {readonly message: string; readonly code?: string | undefined; readonly errno?: number | undefined};
}

const CHUNK_BYTES = 1024 * 1024;
const REPORT_EVERY_BYTES = 16 * CHUNK_BYTES;

const report = (message: HashReport): void => parentPort?.postMessage(message);

function hash(file: string): void {
	const {O_RDONLY, O_NOFOLLOW, O_NONBLOCK} = fs.constants;
	const descriptor = fs.openSync(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
	try {
		const chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
		const sum = createHash('sha256');
		let bytes = 0;
		// Synchronous reads: nothing else happens on this thread, and it can be ended between any two of them.
		for (let read = -1; read !== 0; bytes += read) {
			read = fs.readSync(descriptor, chunk, 0, CHUNK_BYTES, null);
			sum.update(chunk.subarray(0, read));
			if (bytes % REPORT_EVERY_BYTES === 0 && bytes > 0) report({bytes});
		}
		report({bytes, sha256: sum.digest('hex')});
	} finally {
		fs.closeSync(descriptor);
	}
}

try {
	hash(String(workerData));
} catch (error) {
	const {message, code, errno} = error as NodeJS.ErrnoException;
	report({bytes: 0, failed: {message, code, errno}});
}
