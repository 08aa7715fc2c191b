import {once} from 'node:events';
import {mkdir, mkdtemp, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {installHooks} from '../../src/freeze-hooks/install.ts';
import {type Finished, outcome} from '../guest/command.ts';
import type {Application, Server} from './applications/application.ts';
import {LineClient} from './line-client.ts';
import {QuietDisk} from './quiet-disk.ts';

/** Takes what is to be released at the end, the last first: `onTestFinished`, or the `defer` of a stack. */
export type Scope = (release: () => Promise<void> | void) => void;

/** An application that runs on a disk of its own, with its hook installed. */
export interface Running {
	readonly folder: string;
	readonly disk: QuietDisk;
	readonly server: Server;
	/** Where the hooks keep what lasts from freeze to thaw. */
	readonly state: string;
	readonly hook: (action: 'freeze' | 'thaw') => Promise<Finished>;
	readonly client: () => LineClient;
}

/** Ends with the scope. `settings` are more lines of fsfreeze-hook.conf. */
export async function run(scope: Scope, application: Application, settings: readonly string[] = []): Promise<Running> {
	const folder = await mkdtemp(join(tmpdir(), 'qsc-hook-'));
	scope(() => rm(folder, {recursive: true, force: true}));
	// Servers that do not run as root have to get through.
	await outcome('chmod', ['755', folder]);
	const disk = await QuietDisk.make(join(folder, 'disk'), join(folder, 'mounted'));
	scope(() => disk.unmount());
	await application.prepare(disk.folder);
	const sockets = await folderForAll(join(folder, 'run'));
	const server = await serve(scope, application, disk.folder, sockets);
	const root = join(folder, 'root');
	await mkdir(join(root, 'etc/qemu'), {recursive: true});
	const state = join(folder, 'state');
	const lines = [`STATE_FOLDER=${state}`, ...application.settings(sockets), ...settings];
	await writeFile(join(root, 'etc/qemu/fsfreeze-hook.conf'), lines.map(line => `${line}\n`).join(''));
	await installHooks({root, hooks: [application.hook], replace: false, dryRun: false});
	return {
		...{folder, disk, server, state},
		hook: action => outcome(join(root, 'etc/qemu/fsfreeze-hook'), [action]),
		client: () => clientOf(scope, server),
	};
}

/** Starts on a data folder, and waits until it answers. */
export async function serve(scope: Scope, application: Application, folder: string, sockets: string): Promise<Server> {
	const server = application.start(folder, sockets);
	const ended = once(server.process, 'exit');
	scope(async () => {
		server.process.kill('SIGCONT');
		server.process.kill('SIGKILL');
		await ended;
	});
	const deadline = Date.now() + 60_000;
	for (;;) {
		const client = new LineClient(server.client);
		// One that came too early does not always end by itself.
		const patience = setTimeout(() => {
			client.end();
		}, 1000);
		const answer = await client.ask(server.hello[0]).catch(() => undefined);
		clearTimeout(patience);
		client.end();
		if (answer === server.hello[1]) return server;
		if (server.process.exitCode !== null) throw new Error(`${application.title} ended by itself`);
		if (Date.now() > deadline) throw new Error(`${application.title} does not answer`);
	}
}

export async function folderForAll(folder: string): Promise<string> {
	await mkdir(folder);
	await outcome('chmod', ['777', folder]);
	return folder;
}

function clientOf(scope: Scope, server: Server): LineClient {
	const client = new LineClient(server.client);
	scope(() => {
		client.end();
	});
	return client;
}
