import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf} from '../errors.ts';
import {fileError, replaceBy} from '../repository/durable-files.ts';
import type {PointManifest} from '../repository/manifest.ts';

/** What a metric is called, and what it says. Times are seconds since 1970. */
const METRICS = {
	runs_total: ['counter', 'Runs that were to take a point.'],
	failures_total: ['counter', 'Runs that failed.'],
	last_run_timestamp_seconds: ['gauge', 'When the last run ended.'],
	last_run_duration_seconds: ['gauge', 'How long the last run took.'],
	last_run_success: ['gauge', 'Whether the last run took a point.'],
	last_point_timestamp_seconds: ['gauge', 'The instant that the newest point captures.'],
	last_point_duration_seconds: ['gauge', 'How long it took to take the newest point.'],
	last_point_size_bytes: ['gauge', 'What the guest sees of all disks of the newest point.'],
	last_point_added_bytes: ['gauge', 'What the newest point has cost in the repository.'],
	last_point_disks: ['gauge', 'Disks of the newest point.'],
	last_point_full: ['gauge', 'Whether the newest point is a full one.'],
	last_point_quiesced: ['gauge', 'Whether the guest was frozen at the cut of the newest point, and stayed so.'],
	last_point_warnings: ['gauge', 'Warnings of the newest point.'],
	last_point_freeze_seconds: ['gauge', 'How long the agent took to freeze the guest for the newest point.'],
	last_point_held_seconds: ['gauge', 'How long the guest was held frozen for the newest point.'],
	last_point_thaw_seconds: ['gauge', 'How long the agent took to thaw the guest for the newest point.'],
	last_point_standstill_seconds: ['gauge', 'How long the disks stood still at the cut of the newest point.'],
} as const;

type Metric = keyof typeof METRICS;
type Values = Partial<Record<Metric, number>>;

/**
 * Writes what there is to say of a VM to a file of node_exporter's textfile collector. What was counted before goes on; the file is
 * whole at each moment, and anyone may read it.
 */
export function recordPoint(folder: string, manifest: PointManifest, seconds: number): Promise<void> {
	const {disks, freeze, standstill} = manifest;
	const sum = (of: 'sizeBytes' | 'addedBytes'): number => disks.reduce((total, disk) => total + disk[of], 0);
	return update(folder, manifest.vm, before => ({
		runs_total: (before.runs_total ?? 0) + 1,
		failures_total: before.failures_total ?? 0,
		...lastRun(seconds, 1),
		last_point_timestamp_seconds: Date.parse(manifest.cutAt) / 1000,
		last_point_duration_seconds: seconds,
		last_point_size_bytes: sum('sizeBytes'),
		last_point_added_bytes: sum('addedBytes'),
		last_point_disks: disks.length,
		last_point_full: manifest.kind === 'full' ? 1 : 0,
		last_point_quiesced: manifest.consistency === 'quiesced' ? 1 : 0,
		last_point_warnings: manifest.warnings.length,
		...(freeze && {
			last_point_freeze_seconds: freeze.freezeSeconds,
			last_point_held_seconds: freeze.heldSeconds,
			last_point_thaw_seconds: freeze.thawSeconds,
		}),
		...(standstill && {last_point_standstill_seconds: standstill.seconds}),
	}));
}

/** The same of a run that took no point. What is known of the newest one stays. */
export function recordFailure(folder: string, vm: string, seconds: number): Promise<void> {
	return update(folder, vm, before => ({
		...before,
		runs_total: (before.runs_total ?? 0) + 1,
		failures_total: (before.failures_total ?? 0) + 1,
		...lastRun(seconds, 0),
	}));
}

function lastRun(seconds: number, success: 0 | 1): Values {
	return {
		last_run_timestamp_seconds: Date.now() / 1000,
		last_run_duration_seconds: seconds,
		last_run_success: success,
	};
}

async function update(folder: string, vm: string, change: (before: Values) => Values): Promise<void> {
	const file = path.join(folder, `quiesce_${fileNameOf(vm)}.prom`);
	try {
		const text = format(vm, change(await readBefore(file)));
		await replaceBy(file, async fresh => {
			await fs.writeFile(fresh, text, {flag: 'wx', mode: 0o644, flush: true});
			await fs.chmod(fresh, 0o644);
		});
	} catch (error) {
		throw fileError('write', file, error);
	}
}

async function readBefore(file: string): Promise<Values> {
	try {
		const lines = (await fs.readFile(file, 'utf8')).matchAll(/^quiesce_(?<name>\w+)\{.*\} (?<value>\S+)$/gm);
		return Object.fromEntries(
			Array.from(lines, ({groups}) => [groups?.['name'] ?? '', Number(groups?.['value'])] as const).filter(
				([name, value]) => Object.hasOwn(METRICS, name) && Number.isFinite(value),
			),
		);
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return {};
		throw error;
	}
}

function format(vm: string, values: Values): string {
	const label = vm.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
	return Object.entries(METRICS)
		.map(([name, [type, help]]) => {
			const value = values[name as Metric];
			if (value === undefined) return '';
			const full = `quiesce_${name}`;
			return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${full}{vm="${label}"} ${value}\n`;
		})
		.join('');
}

/** A VM may be called anything. */
function fileNameOf(vm: string): string {
	return encodeURIComponent(vm.toWellFormed()).slice(0, 200);
}
