import type {Observable} from 'rxjs';
import {streamTask} from '../rx/task-stream.ts';
import {sumProgress} from '../repository/hash-file.ts';
import {listPoints, listVms, type ListedPoint, resolvePoint} from '../repository/points.ts';
import {openRepository, type Repository} from '../repository/repository.ts';
import {type PointVerification, verifyPoint} from '../repository/verify-point.ts';

export interface VerifyOptions {
	readonly repository: string;
	/** All VMs if not given. */
	readonly vm?: string | undefined;
	/** An id or its unique beginning; all points of the VM if not given. */
	readonly point?: string | undefined;
	/** `content` compares what the guest would see of each disk with what it saw, besides the files' checksums. */
	readonly depth?: 'files' | 'content' | undefined;
	/** Aborting fails the stream with the reason. Nothing is left to clean up. */
	readonly signal?: AbortSignal | undefined;
}

export type VerifyMessage =
	| {readonly kind: 'started'; readonly points: number}
	| {
			readonly kind: 'progress';
			readonly vm: string;
			readonly point: string;
			/** Of this point. */
			readonly bytesRead: number;
			readonly bytesTotal: number;
	  }
	| ({readonly kind: 'verified'; readonly vm: string} & PointVerification)
	| {
			readonly kind: 'finished';
			readonly points: number;
			/** How many of them have problems. */
			readonly damaged: number;
			readonly bytesRead: number;
	  };

/**
 * Checks points of a repository, one after another. Cold. Damage does not fail the stream: it is in the messages, and
 * counted in the last one. Nothing is changed.
 */
export function verify({signal, ...options}: VerifyOptions): Observable<VerifyMessage> {
	return streamTask<VerifyMessage>(signal, async (emit, ended) => {
		const repository = await openRepository(options.repository);
		const points = await chosenPoints(repository, options);
		emit({kind: 'started', points: points.length});
		const known = new Map<string, string | undefined>();
		let damaged = 0;
		let bytesRead = 0;
		for (const {vm, point} of points) {
			ended.throwIfAborted();
			const onProgress = sumProgress(storedBytes(point), (read, bytesTotal) => {
				emit({kind: 'progress', vm, point: point.id, bytesRead: read, bytesTotal});
			});
			const result = await verifyPoint(repository, vm, point.id, {
				...{signal: ended, onProgress, depth: options.depth, known},
			});
			if (result.problems.length > 0) damaged++;
			bytesRead += result.bytesRead;
			emit({kind: 'verified', vm, ...result});
		}
		emit({kind: 'finished', points: points.length, damaged, bytesRead});
	});
}

interface ChosenPoint {
	readonly vm: string;
	readonly point: ListedPoint;
}

async function chosenPoints(
	repository: Repository,
	{vm, point: id}: Omit<VerifyOptions, 'signal'>,
): Promise<readonly ChosenPoint[]> {
	if (vm === undefined) {
		const points: ChosenPoint[] = [];
		for (const name of await listVms(repository)) {
			points.push(...(await listPoints(repository, name)).map(point => ({vm: name, point})));
		}
		return points;
	}
	const points = await listPoints(repository, vm);
	if (id === undefined && points.length > 0) return points.map(point => ({vm, point}));
	// A damaged manifest is what is to be found, and not a reason to stop.
	const exact = points.find(point => point.id === id);
	const point = exact ?? {state: 'readable', ...(await resolvePoint(repository, vm, id))};
	return [{vm, point}];
}

function storedBytes(point: ListedPoint): number {
	return point.state === 'readable' ? point.manifest.disks.reduce((sum, disk) => sum + disk.storedBytes, 0) : 0;
}
