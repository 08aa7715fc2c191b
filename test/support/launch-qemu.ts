import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import net from 'node:net';
import {join} from 'node:path';
import {text} from 'node:stream/consumers';

export interface LaunchedQemu {
	readonly qmpPath: string;
	/** A second monitor, for the test to look on. */
	readonly secondQmpPath: string;
	/** QEMU's working folder, so that its arguments may name files in it without a path. */
	readonly dir: string;
	readonly pid: number;
	/** SIGKILL; resolves once the process has ended. */
	readonly kill: () => Promise<void>;
	/** Resolves once the process has ended, however it does. */
	readonly ended: Promise<void>;
}

/** `QUIESCE_TEST_QEMU` may be a command with arguments, such as a wrapper and the QEMU that it starts. */
const COMMAND = (process.env['QUIESCE_TEST_QEMU'] ?? 'qemu-system-x86_64').split(' ');

/**
 * Starts a QEMU without a guest, with its sockets in `dir`: `-M none` if `extraArgs` names no machine. Resolves once it
 * serves its monitors; throws what it printed if it ends before. `onStart` is told at once how to end it.
 */
export async function launchQemu(
	dir: string,
	extraArgs: readonly string[],
	onStart: (kill: () => Promise<void>) => void = () => undefined,
): Promise<LaunchedQemu> {
	const calling = await listen(join(dir, 'ready.sock'));
	const [program = '', ...args] = [
		...COMMAND,
		...(extraArgs.some(arg => /^--?(?:M|machine)$/.test(arg)) ? [] : ['-M', 'none']),
		...['-nodefaults', '-display', 'none', '-monitor', 'none'],
		...['-qmp', 'unix:qmp.sock,server=on,wait=off'],
		...['-qmp', 'unix:second-qmp.sock,server=on,wait=off'],
		...['-qmp', 'unix:ready.sock'],
		...extraArgs,
	];
	const child = spawn(program, args, {cwd: dir, stdio: ['ignore', 'ignore', 'pipe']});
	const ended = new Promise<void>(resolve => {
		child.once('close', () => {
			resolve();
		});
	});
	const kill = async (): Promise<void> => {
		child.kill('SIGKILL');
		await ended;
	};
	onStart(kill);
	try {
		await Promise.race([calling.answered, endsEarly(child)]);
	} finally {
		calling.stop();
	}
	const pid = child.pid!;
	return {qmpPath: join(dir, 'qmp.sock'), secondQmpPath: join(dir, 'second-qmp.sock'), dir, pid, kill, ended};
}

/**
 * QEMU itself tells when it is ready, so that nobody polls: it connects to `path` as to any monitor's client, and answers
 * a command there once its main loop runs.
 */
async function listen(path: string): Promise<{answered: Promise<void>; stop: () => void}> {
	const {promise: answered, resolve} = Promise.withResolvers<undefined>();
	const server = net.createServer(socket => {
		let said = '';
		socket.write('{"execute": "qmp_capabilities"}');
		socket.setEncoding('utf8').on('data', chunk => {
			said += String(chunk);
			if (!said.includes('"return"')) return;
			socket.destroy();
			resolve(undefined);
		});
		socket.on('error', () => undefined);
	});
	server.listen(path);
	await once(server, 'listening');
	return {answered, stop: () => server.close()};
}

async function endsEarly(child: ChildProcess): Promise<never> {
	const [said] = await Promise.all([text(child.stderr!), once(child, 'close')]);
	throw new Error(`QEMU did not start: ${said}`);
}
