/**
 * Loaded before the program by `--import`. Kills it by SIGKILL at a line of its transcript: right after the message of
 * that line was sent or came in. `QUIESCE_TEST_KILL_AT` is the line's number, or a pattern of it;
 * `QUIESCE_TEST_KILL_WITH=guard` kills the thaw guard just before.
 */
import fs from 'node:fs';

const wanted = process.env['QUIESCE_TEST_KILL_AT'] ?? '';
const withGuard = process.env['QUIESCE_TEST_KILL_WITH'] === 'guard';
const append = fs.appendFileSync;
let lines = 0;

fs.appendFileSync = (file, data, options) => {
	append(file, data, options);
	if (typeof file !== 'number') return;
	lines++;
	const isIt = /^\d+$/.test(wanted) ? lines === Number(wanted) : new RegExp(wanted).test(String(data));
	// What is recorded is written to the socket at once, and then the microtasks run.
	if (isIt) queueMicrotask(end);
};

function end(): void {
	if (withGuard) {
		const children = fs.readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').split(' ');
		for (const pid of children.filter(child => child !== '')) {
			if (fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('guard-process'))
				process.kill(Number(pid), 'SIGKILL');
		}
	}
	process.kill(process.pid, 'SIGKILL');
}
