import fs from 'node:fs';
import {asError} from '../errors.ts';

/** Takes each message as it goes over a wire. */
export type RecordMessage = (direction: '->' | '<-', message: string) => void;

/** Where the messages of all peers go. */
export interface Transcript {
	/** A recorder for one peer. */
	of(peer: string): RecordMessage;
}

/**
 * The file of `--transcript`: a line a message, in the order of the wire, readable by its owner alone. Written
 * synchronously, so that it is whole up to the moment of a crash. If it cannot be written any more it ends there, and the
 * session goes on.
 */
export class FileTranscript implements Transcript {
	readonly #fd: number;
	readonly #onFailure: (error: Error) => void;
	#failed = false;

	/** Appends to `path`. Throws what the file system throws; what it throws later is told once. */
	constructor(path: string, onFailure: (error: Error) => void) {
		this.#onFailure = onFailure;
		this.#fd = fs.openSync(path, 'a', 0o600);
		fs.fchmodSync(this.#fd, 0o600);
	}

	/** The peer's name starts each line after the time. */
	of(peer: string): RecordMessage {
		return (direction, message) => {
			const line = message.replaceAll(/[\r\n]\s*/g, ' ');
			this.#write(`${new Date().toISOString()} ${peer} ${direction} ${line}\n`);
		};
	}

	#write(line: string): void {
		if (this.#failed) return;
		try {
			fs.appendFileSync(this.#fd, line);
		} catch (error) {
			this.#failed = true;
			this.#onFailure(asError(error));
		}
	}

	close(): void {
		fs.closeSync(this.#fd);
	}
}
