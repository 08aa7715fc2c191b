import {catchError, concat, defer, ignoreElements, type Observable, tap} from 'rxjs';
import {asError, failuresIn, QuiesceError} from '../errors.ts';
import type {PointManifest} from '../repository/manifest.ts';
import {recordFailure, recordPoint} from './metrics.ts';
import type {RunFacts, RunHooks} from './run-hooks.ts';

/** Who wants to know how a run goes. */
export interface Followers {
	readonly hooks: RunHooks;
	/** The folder for metrics; undefined for none. */
	readonly metrics: string | undefined;
	/** What the operator calls the VMs, which is all that is known of a run that has failed before it had a plan. */
	readonly vms: readonly string[];
	readonly signal: AbortSignal;
	/** A warning. */
	readonly tell: (text: string) => void;
}

/** What is of interest of a run's messages. */
type RunMessage =
	| {readonly kind: 'planned'; readonly plan: {readonly vm: string}}
	| {readonly kind: 'finished'; readonly manifest: PointManifest; readonly folder: string}
	| {readonly kind: string};

/**
 * A run that takes points, with its hooks `run-start`, and `success` or `failure`, and with its metrics. The stream ends once these
 * have ended. Cold.
 */
export function followed<Message extends {readonly kind: string}>(
	run$: Observable<Message>,
	followers: Followers,
): Observable<Message> {
	const {hooks, signal} = followers;
	return defer(() => {
		const began = performance.now();
		const points: {readonly manifest: PointManifest; readonly folder: string}[] = [];
		const planned: string[] = [];
		const seconds = (): number => (performance.now() - began) / 1000;
		const noted$ = run$.pipe(
			tap((message: RunMessage) => {
				if ('manifest' in message) points.push(message);
				if ('plan' in message) planned.push(message.plan.vm);
			}),
		) as Observable<Message>;
		const succeeded$ = defer(async () => {
			await record(followers, async folder => {
				for (const {manifest} of points) await recordPoint(folder, manifest, seconds());
			});
			await hooks.at('success', signal, successFacts(points, seconds()));
		}).pipe(ignoreElements());
		return concat(defer(() => hooks.at('run-start', signal)).pipe(ignoreElements()), noted$, succeeded$).pipe(
			catchError((error: unknown) =>
				defer(async () => {
					await record(followers, async folder => {
						for (const vm of planned.length < followers.vms.length ? followers.vms : planned)
							await recordFailure(folder, vm, seconds());
					});
					await hooks.at('failure', signal, failureFacts(error, seconds()));
					throw error;
				}),
			),
		);
	});
}

/** Nobody wants to lose a point over its metrics. */
async function record({metrics, tell}: Followers, write: (folder: string) => Promise<void>): Promise<void> {
	if (metrics === undefined) return;
	await write(metrics).catch((error: unknown) => {
		tell(`no metrics: ${asError(error).message}`);
	});
}

function successFacts(
	points: readonly {readonly manifest: PointManifest; readonly folder: string}[],
	seconds: number,
): RunFacts {
	return {
		POINT: points.map(({manifest: {vm, id}}) => `${vm}@${id}`).join(' '),
		FOLDER: points.map(({folder}) => folder).join(':'),
		CONSISTENCY: [...new Set(points.map(({manifest}) => manifest.consistency))].join(' '),
		SECONDS: seconds.toFixed(3),
	};
}

function failureFacts(error: unknown, seconds: number): RunFacts {
	const [first] = failuresIn(error);
	return {
		ERROR: asError(first).message,
		ERROR_CODE: first instanceof QuiesceError ? first.code : 'BUG',
		SECONDS: seconds.toFixed(3),
	};
}
