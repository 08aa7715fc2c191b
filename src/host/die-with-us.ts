import {execFile} from 'node:child_process';
import {promisify} from 'node:util';

/** We may have been killed before the kernel was told. */
const IF_WE_LIVE = '[ "$PPID" = "$0" ] && exec "$@"';

/** `KILL` ends it at once; with `TERM` it closes its images in order. */
type EndingSignal = 'KILL' | 'TERM';

let isPossible: Promise<boolean> | undefined;

/**
 * How to start a program so that the kernel ends it when we are killed: one that goes on reading or writing images would
 * keep everybody else from them. Where setpriv(1) of util-linux is not there, it is started as it is.
 */
export async function dyingWithUs(
	program: string,
	args: readonly string[],
	signal: EndingSignal = 'KILL',
): Promise<[string, string[]]> {
	isPossible ??= promisify(execFile)('setpriv', ['--pdeathsig', 'KILL', 'true']).then(
		() => true,
		() => false,
	);
	if (!(await isPossible)) return [program, [...args]];
	return ['setpriv', ['--pdeathsig', signal, '--', 'sh', '-c', IF_WE_LIVE, String(process.pid), program, ...args]];
}
