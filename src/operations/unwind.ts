import {runOf} from '../block/names.ts';
import {QuiesceError} from '../errors.ts';
import {endJobs} from '../jobs/end-jobs.ts';
import {yank} from '../jobs/yank.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';

/** The runs that have left, or are using, something inside this QEMU. */
export async function runsInside(qmp: QmpConnection): Promise<ReadonlySet<string>> {
	const [jobs, nodes] = await Promise.all([qmp.execute('query-jobs'), namedNodes(qmp)]);
	const runs = [...jobs.map(job => job.id), ...nodes].map(runOf).filter(run => run !== undefined);
	return new Set(runs);
}

/**
 * Removes everything of one run from QEMU: its jobs, and then its nodes. Returns what was removed, in words. Does
 * nothing where nothing is left, so it can be repeated; touches nothing that does not bear the run's name.
 */
export async function unwindInside(qmp: QmpConnection, run: string): Promise<string[]> {
	const jobs = (await qmp.execute('query-jobs')).filter(job => runOf(job.id) === run);
	await endJobs(qmp, jobs);
	const done = jobs.map(job => `job ${job.id}`);
	// QEMU flushes what it closes, and would wait in its main loop for a server that hangs.
	await yank(qmp, await nodesOfRun(qmp, run));
	// A node that another one uses can only go after it, so the ones above go in an earlier round.
	for (;;) {
		const left = await nodesOfRun(qmp, run);
		if (left.length === 0) return done;
		const removed = await removeUnused(qmp, left);
		if (removed.length === 0) {
			throw new QuiesceError('FAILED', `QEMU still uses ${left.join(', ')}, left by run ${run}`, {
				hint: 'Another program may have a job or an export on it; end that, and try again.',
			});
		}
		done.push(...removed.map(name => `node ${name}`));
	}
}

/** The names of what a run has, or has left, of nodes. */
export async function nodesOfRun(qmp: QmpConnection, run: string): Promise<string[]> {
	return (await namedNodes(qmp)).filter(name => runOf(name) === run);
}

async function removeUnused(qmp: QmpConnection, names: readonly string[]): Promise<string[]> {
	const removed: string[] = [];
	for (const name of names) {
		try {
			await qmp.execute('blockdev-del', {'node-name': name});
			removed.push(name);
		} catch (error) {
			if (!(error instanceof QmpCommandError)) throw error;
		}
	}
	return removed;
}

async function namedNodes(qmp: QmpConnection): Promise<string[]> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	return nodes.map(node => node['node-name'] ?? '');
}
