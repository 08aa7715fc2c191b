import {performance} from 'node:perf_hooks';
import {type MonoTypeOperatorFunction, tap} from 'rxjs';
import type {QmpJobInfo} from '../qmp/schema.ts';
import {JobError} from './errors.ts';
import type {NamedJob} from './named-job.ts';

/**
 * Passes on what `query-jobs` says, again and again, until one of the named jobs has been running for `stallMs` without
 * any progress: fails then, with a {@link JobError}. Time in which a job does not run, as it waits for others, is not
 * counted.
 */
export function failOnStall(
	jobs: readonly NamedJob[],
	stallMs: number,
): MonoTypeOperatorFunction<readonly QmpJobInfo[]> {
	const last = new Map<string, {readonly progress: number; readonly since: number}>();
	return tap(infos => {
		const now = performance.now();
		for (const {id, label} of jobs) {
			const info = infos.find(candidate => candidate.id === id);
			const progress = info?.['current-progress'] ?? 0;
			const before = last.get(id);
			if (info?.status !== 'running' || before?.progress !== progress) last.set(id, {progress, since: now});
			else if (now - before.since >= stallMs) {
				throw new JobError(`${label}: the copy made no progress for ${Math.round(stallMs / 1000)} s`, {
					hint: 'Its target hangs, or is too slow. --target-timeout says how long to wait.',
				});
			}
		}
	});
}
