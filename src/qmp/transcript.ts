import fs from 'node:fs';

/** Takes each message as it goes over a wire. */
export type Record = (direction: '->' | '<-', message: string) => void;

/**
 * The file of `--transcript`: a line a message, in the order of the wire, readable by its owner alone. Written
 * synchronously, so that it is whole up to the moment of a crash.
 */
export class Transcript {
	readonly #fd: number;

	/** Appends to `path`. Throws what the file system throws. */
	constructor(path: string) {
		this.#fd = fs.openSync(path, 'a', 0o600);
		fs.fchmodSync(this.#fd, 0o600);
	}

	/** A recorder for one peer, whose name starts each line after the time. */
	of(peer: string): Record {
		return (direction, message) => {
			const line = message.replaceAll(/\s*[\r\n]\s*/g, ' ');
			fs.writeSync(this.#fd, `${new Date().toISOString()} ${peer} ${direction} ${line}\n`);
		};
	}

	close(): void {
		fs.closeSync(this.#fd);
	}
}
