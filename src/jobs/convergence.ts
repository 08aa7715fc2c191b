import {performance} from 'node:perf_hooks';
import {concatMap, defer, from, type OperatorFunction} from 'rxjs';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpJobInfo} from '../qmp/schema.ts';
import {JobError} from './errors.ts';
import type {NamedJob} from './named-job.ts';

export interface ConvergenceOptions {
	/** For so long a job that runs may come no nearer to its end. */
	readonly patienceMs: number;
	/** By then it has to have done its work, or to be ready; undefined for no such bound. */
	readonly deadlineMs?: number | undefined;
	/** Whether the jobs have been given a speed. */
	readonly limited: boolean;
}

/** What `query-jobs` said, and the jobs whose speed was not enough and is limited no more. */
export interface Converging {
	readonly infos: readonly QmpJobInfo[];
	readonly unlimited: readonly NamedJob[];
}

interface Nearest {
	readonly remaining: number;
	readonly since: number;
}

/**
 * Passes on what `query-jobs` says, again and again, and sees to it that each job comes to an end though the guest goes
 * on to write. One that gets no nearer for a while, or has used half its time, loses its limit of speed; one that still
 * gets no nearer, or is late, fails with a {@link JobError}. (QEMU cannot have the guest wait for an active commit, as it
 * can for a mirror: `block-job-change` refuses it, up to 11.1.)
 */
export function converging(
	qmp: QmpConnection,
	jobs: readonly NamedJob[],
	{patienceMs, deadlineMs = Infinity, limited}: ConvergenceOptions,
): OperatorFunction<readonly QmpJobInfo[], Converging> {
	return infos$ =>
		defer(() => {
			const began = performance.now();
			const nearest = new Map<string, Nearest>();
			const unlimited = new Set<string>();
			const isStuck = ({id}: NamedJob, info: QmpJobInfo, now: number): boolean => {
				const [remaining, before] = [remainingOf(info), nearest.get(id)];
				if (!before || info.status !== 'running' || remaining < before.remaining) {
					nearest.set(id, {remaining: Math.min(remaining, before?.remaining ?? Infinity), since: now});
					return false;
				}
				return now - before.since >= patienceMs;
			};
			const look = async (infos: readonly QmpJobInfo[]): Promise<Converging> => {
				const now = performance.now();
				const freed: NamedJob[] = [];
				for (const job of jobs) {
					const info = infos.find(({id}) => id === job.id);
					if (!info || !UNDER_WAY.has(info.status)) continue;
					const elapsed = now - began;
					const stuck = isStuck(job, info, now);
					if (elapsed >= deadlineMs) throw late(job, info, elapsed);
					if (!stuck && elapsed < deadlineMs / 2) continue;
					if (limited && !unlimited.has(job.id)) {
						await qmp.execute('block-job-set-speed', {device: job.id, speed: 0});
						unlimited.add(job.id);
						nearest.delete(job.id);
						freed.push(job);
					} else if (stuck) throw noNearer(job, info, patienceMs);
				}
				return {infos, unlimited: freed};
			};
			return infos$.pipe(concatMap(infos => from(look(infos))));
		});
}

const UNDER_WAY: ReadonlySet<string> = new Set(['created', 'running', 'paused']);

/** Unknown until the job has looked at what there is to do. */
function remainingOf({'current-progress': current, 'total-progress': total}: QmpJobInfo): number {
	return total === 0 ? Infinity : total - current;
}

function late({label}: NamedJob, info: QmpJobInfo, elapsedMs: number): JobError {
	return new JobError(`${label}: not done after ${Math.round(elapsedMs / 1000)} s; ${left(info)}`, {
		hint: 'Give it more time with --deadline, more speed with --speed, or an hour when the guest writes less.',
	});
}

function noNearer({label}: NamedJob, info: QmpJobInfo, patienceMs: number): JobError {
	return new JobError(`${label}: came no nearer to its end for ${Math.round(patienceMs / 1000)} s; ${left(info)}`, {
		hint: 'The guest writes faster than the storage takes it a second time, or the storage hangs. Try when it writes less.',
	});
}

function left({'current-progress': current, 'total-progress': total}: QmpJobInfo): string {
	return `${total - current} of ${total} bytes are left`;
}
