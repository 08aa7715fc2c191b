/**
 * Names the steps of a run so that the same step has the same name in every run: what was said or done, and the how
 * manyeth time. `qmp -> blockdev-add #2`, `agent <- guest-fsfreeze-freeze #1`, `qmp <- JOB_STATUS_CHANGE pending #4`,
 * `host rename .POINT.partial #1`.
 */
export class StepNames {
	readonly #seen = new Map<string, number>();
	readonly #commands = new Map<string, string>();

	/** For a line of the transcript; undefined for what is none. */
	ofMessage(line: string): string | undefined {
		const [, peer, direction, text] = /^\S+ (\w+(?:@\S+)?) (->|<-) (.*)$/.exec(line) ?? [];
		if (peer === undefined || direction === undefined || text === undefined) return undefined;
		return this.#numbered(`${peer} ${direction} ${this.#what(peer, text)}`);
	}

	/** For something done to this host: a changed file, a program started. */
	ofDeed(deed: string, subject: string): string {
		return this.#numbered(`host ${deed} ${stable(subject)}`);
	}

	#what(peer: string, text: string): string {
		const message = parse(text);
		const command = message['execute'] ?? message['exec-oob'];
		if (typeof command === 'string') {
			this.#commands.set(keyOf(peer, message), command);
			return command;
		}
		if (typeof message['event'] === 'string') {
			const status = (message['data'] as {status?: string} | undefined)?.status;
			return status === undefined ? message['event'] : `${message['event']} ${status}`;
		}
		if ('QMP' in message) return 'greeting';
		return this.#commands.get(keyOf(peer, message)) ?? 'something';
	}

	#numbered(name: string): string {
		const count = (this.#seen.get(name) ?? 0) + 1;
		this.#seen.set(name, count);
		return `${name} #${count}`;
	}
}

/** The agent answers in order, without ids. */
function keyOf(peer: string, {id}: Record<string, unknown>): string {
	return typeof id === 'string' ? `${peer} ${id}` : peer;
}

function parse(text: string): Record<string, unknown> {
	try {
		return JSON.parse(text) as Record<string, unknown>;
	} catch {
		// A step all the same.
		return {};
	}
}

/** Ids, times and process numbers differ from run to run. */
function stable(subject: string): string {
	return subject
		.replaceAll(/\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(-\d+)?/g, 'POINT')
		.replaceAll(/\b(run|quiesce)-\w{6}\b/g, '$1-ID')
		.replaceAll(/qsc-\w{6}-/g, 'qsc-ID-')
		.replaceAll(/\b[0-9a-f]{8,}\b/g, 'HASH')
		.replaceAll(/\b\d{2,}\b/g, 'N');
}
