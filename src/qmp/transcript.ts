import fs from 'node:fs';

/** Takes each message as it goes over a wire. */
export type RecordMessage = (direction: '->' | '<-', message: string) => void;

/** Where the messages of all peers go. */
export interface Transcript {
	/** A recorder for one peer. */
	of(peer: string): RecordMessage;
}

/**
 * The file of `--transcript`: a line a message, in the order of the wire, readable by its owner alone. Written
 * synchronously, so that it is whole up to the moment of a crash.
 */
export class FileTranscript implements Transcript {
	readonly #fd: number;

	/** Appends to `path`. Throws what the file system throws. */
	constructor(path: string) {
		this.#fd = fs.openSync(path, 'a', 0o600);
		fs.fchmodSync(this.#fd, 0o600);
	}

	/** The peer's name starts each line after the time. */
	of(peer: string): RecordMessage {
		return (direction, message) => {
			const line = message.replaceAll(/[\r\n]\s*/g, ' ');
			fs.writeSync(this.#fd, `${new Date().toISOString()} ${peer} ${direction} ${line}\n`);
		};
	}

	close(): void {
		fs.closeSync(this.#fd);
	}
}
