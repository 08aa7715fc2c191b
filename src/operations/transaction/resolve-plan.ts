import type {DocumentPath, DocumentProblem} from '../../config/located-yaml.ts';
import type {BlockGraph} from '../../block/graph.ts';
import {objectName} from '../../block/names.ts';
import type {NamedJob} from '../../jobs/named-job.ts';
import {checkArguments} from '../../qmp/check-arguments.ts';
import type {QmpSchema} from '../../qmp/introspection.ts';
import type {LocatedPlan} from './plan.ts';

export interface PlannedCommand {
	readonly command: string;
	readonly args: Readonly<Record<string, unknown>>;
}

/** What is sent. */
export interface ResolvedPlan {
	readonly prepare: readonly PlannedCommand[];
	/** The arguments of QEMU's `transaction`. */
	readonly transaction: Readonly<Record<string, unknown>>;
	/** Those that it starts. */
	readonly jobs: readonly NamedJob[];
	readonly after: readonly PlannedCommand[];
	readonly cleanup: readonly PlannedCommand[];
}

/** Begins the name of a disk where QEMU wants a node: no node can be called so. */
const DISK = 'disk:';
/** The actions that start a job. */
const STARTING = ['blockdev-backup', 'drive-backup'];

/**
 * Puts nodes in the place of disks, and has jobs wait for each other's end; then the QEMU's own schema may say what is wrong. Throws
 * one `UsageError` with all that is.
 */
export function resolvePlan(
	{plan, refuse}: LocatedPlan,
	{schema, graph, run}: {readonly schema: QmpSchema; readonly graph: BlockGraph; readonly run: string},
): ResolvedPlan {
	const problems: DocumentProblem[] = [];
	const inPlace = (value: unknown, path: DocumentPath): unknown => {
		if (typeof value === 'string' && value.startsWith(DISK)) {
			const found = nodeOf(graph, value.slice(DISK.length));
			if ('node' in found) return found.node;
			problems.push({path, message: found.message});
			return value;
		}
		if (Array.isArray(value)) return value.map((element, index) => inPlace(element, [...path, index]));
		if (typeof value !== 'object' || value === null) return value;
		return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, inPlace(member, [...path, key])]));
	};
	const commandsIn = (part: 'prepare' | 'after' | 'cleanup'): PlannedCommand[] =>
		plan[part].flatMap((entry, index) =>
			Object.entries(entry).map(([command, given]) => {
				const path = [part, index, command];
				const args = inPlace(given ?? {}, path) as Record<string, unknown>;
				const wrong = checkArguments(schema, command, args);
				problems.push(...wrong.map(({path: at, message}) => ({path: [...path, ...at], message})));
				return {command, args};
			}),
		);

	const jobs: NamedJob[] = [];
	const actions = plan.actions.map((action, index) => {
		const resolved = inPlace(action, ['actions', index]) as Record<string, unknown>;
		const {type, data} = resolved;
		if (typeof type !== 'string' || !STARTING.includes(type) || typeof data !== 'object' || data === null)
			return resolved;
		const given = data as Record<string, unknown>;
		for (const own of ['auto-finalize', 'auto-dismiss']) {
			if (given[own] === undefined || given[own] === false) continue;
			problems.push({
				path: ['actions', index, 'data', own],
				message: 'the jobs are finalized together, and dismissed once it is known how they ended: leave it out',
			});
		}
		const id = given['job-id'] ?? objectName(run, String(index), 'job');
		if (typeof id === 'string') jobs.push({id, label: labelOf(action, id)});
		return {...resolved, data: {...given, 'job-id': id, 'auto-finalize': false, 'auto-dismiss': false}};
	});
	const transaction = {actions, ...(plan.properties && {properties: plan.properties})};
	problems.push(...checkArguments(schema, 'transaction', transaction));
	problems.push(...twice(jobs));
	const resolved = {
		...{prepare: commandsIn('prepare'), after: commandsIn('after'), cleanup: commandsIn('cleanup')},
		...{transaction, jobs},
	};
	if (problems.length > 0) throw refuse(problems);
	return resolved;
}

function nodeOf({disks}: BlockGraph, name: string): {readonly node: string} | {readonly message: string} {
	const disk = disks.find(one => one.name === name);
	if (disk?.medium) return {node: disk.medium.node};
	if (disk) return {message: `the drive ${name} is empty`};
	return {message: `this VM has no disk ${name}, but ${disks.map(one => one.name).join(', ') || 'none'}`};
}

/** By the disk, as the file has it. */
function labelOf({data}: Record<string, unknown>, id: string): string {
	const device = typeof data === 'object' && data !== null ? (data as Record<string, unknown>)['device'] : undefined;
	return typeof device === 'string' ? device.replace(DISK, '') : id;
}

function twice(jobs: readonly NamedJob[]): DocumentProblem[] {
	const again = jobs.filter(({id}, index) => jobs.findIndex(other => other.id === id) < index);
	return again.map(({id}) => ({path: ['actions'], message: `two jobs are called ${id}`}));
}
