import {filter, firstValueFrom, timeout} from 'rxjs';
import path from 'node:path';
import {isScratch, runOf} from '../block/names.ts';
import {putDevicesBack} from '../cut/put-devices-back.ts';
import {QuiesceError} from '../errors.ts';
import {storageAnswers} from '../host/storage-answers.ts';
import {endJobs} from '../jobs/end-jobs.ts';
import {yank} from '../jobs/yank.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpSchema} from '../qmp/introspection.ts';
import {hasExportsSocket} from './exports-socket.ts';
import {removeUnused} from './remove-nodes.ts';

/** Clients that are in the middle of a request are waited for. */
const EXPORT_MS = 30_000;

/** The runs that have left, or are using, something inside this QEMU. */
export async function runsInside(qmp: QmpConnection): Promise<ReadonlySet<string>> {
	const [jobs, nodes, exports] = await Promise.all([
		qmp.execute('query-jobs'),
		qmp.execute('query-named-block-nodes', {flat: true}),
		qmp.execute('query-block-exports'),
	]);
	const names = [
		...[...jobs, ...exports].map(({id}) => id),
		...nodes.map(node => node['node-name'] ?? ''),
		...nodes.flatMap(node => (node['dirty-bitmaps'] ?? []).map(bitmap => bitmap.name ?? '')),
	];
	return new Set(names.map(runOf).filter(run => run !== undefined));
}

/**
 * Removes everything of one run from QEMU, in this order: exports and the server for them, jobs, what lies above its filters, the filters (the
 * devices go back to their disks first), what lies below, bitmaps. Returns what was removed, in words. Does nothing where
 * nothing is left, so it can be repeated; touches nothing that does not bear the run's name.
 */
export async function unwindInside(qmp: QmpConnection, schema: QmpSchema, run: string): Promise<string[]> {
	const isOurs = (name: string): boolean => runOf(name) === run;
	await requireScratchAnswers(qmp, run);
	const done = await removeExports(qmp, run);
	const jobs = (await qmp.execute('query-jobs')).filter(({id}) => isOurs(id));
	await endJobs(qmp, jobs);
	done.push(...jobs.map(({id}) => `job ${id}`));
	// QEMU flushes what it closes, and would wait in its main loop for a server that hangs.
	await yank(qmp, await nodesOfRun(qmp, run));
	done.push(...(await removeNodes(qmp, schema, run)));
	for (const {node, name} of (await bitmapsOf(qmp)).filter(({name}) => isOurs(name))) {
		await qmp.execute('block-dirty-bitmap-remove', {node, name});
		done.push(`bitmap ${name}`);
	}
	return done;
}

/** The exports of a run, and the server for them. Returns what was removed, in words. */
export async function removeExports(qmp: QmpConnection, run: string): Promise<string[]> {
	const done: string[] = [];
	for (const {id} of (await qmp.execute('query-block-exports')).filter(({id}) => runOf(id) === run)) {
		await removeExport(qmp, id);
		done.push(`export ${id}`);
	}
	// Ours, as long as its socket is there: QEMU removes that with the server.
	if (await hasExportsSocket(run)) {
		await qmp.execute('nbd-server-stop');
		done.push('NBD server');
	}
	return done;
}

/** The names of what a run has, or has left, of nodes. */
export async function nodesOfRun(qmp: QmpConnection, run: string): Promise<string[]> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	return nodes.map(node => node['node-name'] ?? '').filter(name => runOf(name) === run);
}

/** While a write to scratch hangs, QEMU would wait for it in its main loop, and the guest with it, as soon as we remove a node. */
async function requireScratchAnswers(qmp: QmpConnection, run: string): Promise<void> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	const scratch = nodes.filter(node => isScratch(node['node-name'] ?? '') && runOf(node['node-name'] ?? '') === run);
	for (const folder of new Set(scratch.map(({file}) => path.dirname(file)))) {
		if (await storageAnswers(folder)) continue;
		throw new QuiesceError('FAILED', `scratch in ${folder} does not answer: to remove it now would stop the guest`, {
			hint: `The guest goes on. Once ${folder} answers again, run \`quiesce recover\`.`,
		});
	}
}

async function removeNodes(qmp: QmpConnection, schema: QmpSchema, run: string): Promise<string[]> {
	const done: string[] = [];
	let devicesAreBack = false;
	// A node that another one uses can only go after it, so the ones above go in an earlier round.
	for (;;) {
		const left = await nodesOfRun(qmp, run);
		if (left.length === 0) return done;
		const removed = await removeUnused(qmp, left);
		done.push(...removed.map(name => `node ${name}`));
		if (removed.length > 0) continue;
		if (devicesAreBack) {
			throw new QuiesceError('FAILED', `QEMU still uses ${left.join(', ')}, left by run ${run}`, {
				hint: 'Another program may have a job or an export on it; end that, and try again.',
			});
		}
		// A filter shares its disk with nobody as long as something is above it.
		await putDevicesBack(qmp, schema, name => runOf(name) === run);
		devicesAreBack = true;
	}
}

async function removeExport(qmp: QmpConnection, id: string): Promise<void> {
	const deleted$ = qmp.on('BLOCK_EXPORT_DELETED').pipe(filter(({data}) => data.id === id));
	await Promise.all([
		firstValueFrom(deleted$.pipe(timeout(EXPORT_MS)), {defaultValue: undefined}),
		qmp.execute('block-export-del', {id, mode: 'hard'}),
	]);
}

async function bitmapsOf(qmp: QmpConnection): Promise<{node: string; name: string}[]> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	return nodes.flatMap(node =>
		(node['dirty-bitmaps'] ?? []).map(({name = ''}) => ({node: node['node-name'] ?? '', name})),
	);
}
