import {UsageError} from '../errors.ts';
import {readPoint, resolvePoint} from '../repository/points.ts';
import {clearProtected, markProtected} from '../repository/protection.ts';
import {openRepository} from '../repository/repository.ts';

export interface ProtectOptions {
	readonly repository: string;
	readonly vm: string;
	/** An id or its unique beginning. */
	readonly point: string;
}

export interface ProtectReport {
	readonly vm: string;
	readonly point: string;
	readonly protected: boolean;
	/** `already` if it was so before. */
	readonly was: 'changed' | 'already';
}

/** No rule, and no `prune` that names it, removes the point any more. */
export async function protect(options: ProtectOptions): Promise<ProtectReport> {
	const {repository, point} = await find(options);
	const isNew = await markProtected(point);
	// It may have been removed while it was marked; then this says that it is unknown.
	await readPoint(repository, options.vm, point.id);
	return {vm: options.vm, point: point.id, protected: true, was: isNew ? 'changed' : 'already'};
}

/** Rules apply to the point again. */
export async function unprotect(options: ProtectOptions): Promise<ProtectReport> {
	const {point} = await find(options);
	const was = (await clearProtected(point)) ? 'changed' : 'already';
	return {vm: options.vm, point: point.id, protected: false, was};
}

async function find({repository: folder, vm, point: asked}: ProtectOptions) {
	if (asked === '') throw new UsageError('no point is named');
	const repository = await openRepository(folder);
	return {repository, point: await resolvePoint(repository, vm, asked)};
}
