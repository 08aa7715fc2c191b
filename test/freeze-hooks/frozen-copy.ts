import {once} from 'node:events';
import {join} from 'node:path';
import type {Application} from './applications/application.ts';
import {LineClient} from './line-client.ts';
import {QuietDisk} from './quiet-disk.ts';
import {folderForAll, type Running, type Scope, serve} from './running.ts';
import type {Writer} from './writer.ts';

export interface FrozenCopy {
	/** How far the writer was while all was frozen. */
	readonly issued: number;
	readonly committed: number;
	/** How long each took, in milliseconds. */
	readonly freezeMs: number;
	readonly copyMs: number;
	readonly thawMs: number;
}

/** What the agent does at a freeze and a thaw, with a copy of the disk between. */
export async function frozenCopy({hook, disk, folder}: Running, writer: Writer): Promise<FrozenCopy> {
	const began = performance.now();
	const frozen = await hook('freeze');
	if (frozen.code !== 0) throw new Error(`not quieted: ${frozen.stderr}`);
	await disk.freeze();
	const {issued, committed} = writer;
	const copying = performance.now();
	await disk.copy(join(folder, 'copy'));
	const copied = performance.now();
	await disk.thaw();
	const thawed = await hook('thaw');
	if (thawed.code !== 0) throw new Error(`not let go: ${thawed.stderr}`);
	return {issued, committed, freezeMs: copying - began, copyMs: copied - copying, thawMs: performance.now() - copied};
}

/** What is in a table: as many as the last one, if none is missing. */
export interface Count {
	readonly count: number;
	readonly last: number;
	readonly sum: number;
}

/** Starts the application on the copy, and lets it count what is there. */
export async function copyOf(
	scope: Scope,
	application: Application,
	{folder, server: original}: Running,
): Promise<Count[]> {
	// Of the same data folder only one may run, which PostgreSQL sees to.
	original.process.kill('SIGKILL');
	await once(original.process, 'exit');
	const disk = await QuietDisk.mount(join(folder, 'copy'), join(folder, 'copied'));
	scope(() => disk.unmount());
	const server = await serve(scope, application, disk.folder, await folderForAll(join(folder, 'run2')));
	const client = new LineClient(server.client);
	const lines = [await client.ask(server.count.ask)];
	for (let more = 1; more < server.count.tables; more++) lines.push(await client.line());
	client.end();
	return lines.map(line => {
		const [count = NaN, last = NaN, sum = NaN] = line.split(' ').map(Number);
		return {count, last, sum};
	});
}
