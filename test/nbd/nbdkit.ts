import {spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import {text} from 'node:stream/consumers';
import {onTestFinished} from 'vitest';
import {temporaryFolder} from '../repository/fixture.ts';

/** Starts nbdkit on a socket of its own until the test is over. Resolves with the socket once it listens. */
export async function startNbdkit(options: readonly string[], ...plugin: string[]): Promise<string> {
	const folder = temporaryFolder();
	const socket = path.join(folder, 'nbd.sock');
	// It writes this file once it listens.
	const pidFile = path.join(folder, 'pid');
	const watching = new AbortController();
	const listening = untilWritten(pidFile, watching.signal);
	const args = ['--foreground', '--unix', socket, '--pidfile', pidFile, ...options, ...plugin];
	const child = spawn('nbdkit', args, {stdio: ['ignore', 'ignore', 'pipe']});
	const said = text(child.stderr);
	const ended = once(child, 'close');
	onTestFinished(async () => {
		child.kill('SIGKILL');
		await ended;
	});
	const early = ended.then(async () => {
		watching.abort(new Error(`nbdkit did not start: ${await said}`));
	});
	await Promise.race([listening, early.then(() => listening)]);
	return socket;
}

/** The watch begins at once. */
async function untilWritten(file: string, signal: AbortSignal): Promise<void> {
	const changes = fs.promises.watch(path.dirname(file), {signal});
	try {
		while (!(await changes.next()).done) if (fs.existsSync(file) && fs.statSync(file).size > 0) return;
	} catch (error) {
		signal.throwIfAborted();
		throw error;
	}
}
