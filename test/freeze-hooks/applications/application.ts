import type {ChildProcess} from 'node:child_process';

/** A server of the real thing, and what is asked of it. All paths are those of the test. */
export interface Application {
	/** The hook's name. */
	readonly hook: string;
	readonly title: string;
	/** Makes an empty data folder. The folder exists, on a file system of its own. */
	prepare(folder: string): Promise<void>;
	/** Starts on a data folder, also on one that was copied. `sockets` is a short path elsewhere. */
	start(folder: string, sockets: string): Server;
	/** Lines for fsfreeze-hook.conf, for a server with this `sockets`. */
	settings(sockets: string): readonly string[];
}

export interface Server {
	readonly process: ChildProcess;
	/** Program and arguments of a client that reads commands from its stdin. */
	readonly client: readonly string[];
	/** What a client is sent to see whether the server answers, and its answer's line. */
	readonly hello: readonly [ask: string, answer: string];
	/** Makes what {@link Server.write} writes into; answers the line `made`. */
	readonly make: string;
	/** Commits `n` to all tables; answers the line `n`. */
	write(n: number): string;
	/** Answers a line for each table, `COUNT MAX SUM`. The first two are written in one transaction; a third has none. */
	readonly count: {readonly ask: string; readonly tables: number};
}
