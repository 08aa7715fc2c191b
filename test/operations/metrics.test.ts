import {mkdtemp, readdir, readFile, rm, stat, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {recordFailure, recordPoint} from '../../src/operations/metrics.ts';
import type {PointManifest} from '../../src/repository/manifest.ts';

let folder: string;

beforeEach(async () => {
	folder = await mkdtemp(join(tmpdir(), 'qsc-metrics-'));
	return () => rm(folder, {recursive: true, force: true});
});

const disk = {sizeBytes: 1000, addedBytes: 10};
const manifest = {
	vm: 'web1',
	cutAt: '2026-11-21T14:00:18.500Z',
	kind: 'full',
	consistency: 'quiesced',
	freeze: {fileSystems: 2, freezeSeconds: 0.1, heldSeconds: 0.002, thawSeconds: 0.03},
	standstill: {of: 'disks', seconds: 0.001},
	disks: [disk, disk],
	warnings: ['one'],
} as unknown as PointManifest;

async function values(vm = 'web1'): Promise<Record<string, string>> {
	const text = await readFile(join(folder, `quiesce_${vm}.prom`), 'utf8');
	return Object.fromEntries(
		Array.from(text.matchAll(/^quiesce_(\w+)\{vm="web1"\} (\S+)$/gm), ([, name, value]) => [name!, value!]),
	);
}

test('tells of the newest point, and counts runs and failures', async () => {
	await recordPoint(folder, manifest, 2.5);
	expect(await values()).toMatchObject({
		runs_total: '1',
		failures_total: '0',
		last_run_success: '1',
		last_run_duration_seconds: '2.5',
		last_point_timestamp_seconds: '1795269618.5',
		last_point_size_bytes: '2000',
		last_point_added_bytes: '20',
		last_point_full: '1',
		last_point_quiesced: '1',
		last_point_warnings: '1',
		last_point_freeze_seconds: '0.1',
		last_point_standstill_seconds: '0.001',
	});
	await recordFailure(folder, 'web1', 1);
	await recordFailure(folder, 'web1', 1);
	expect(await values()).toMatchObject({
		runs_total: '3',
		failures_total: '2',
		last_run_success: '0',
		last_run_duration_seconds: '1',
		last_point_timestamp_seconds: '1795269618.5',
	});
	await recordPoint(folder, {...manifest, freeze: null, standstill: null}, 1);
	const after = await values();
	expect(after).toMatchObject({runs_total: '4', failures_total: '2', last_run_success: '1'});
	// A point without a freeze has no times of one.
	expect(after).not.toHaveProperty('last_point_freeze_seconds');
});

test('each metric has its help and type before it, and anyone may read the file', async () => {
	await recordFailure(folder, 'web1', 1);
	const file = join(folder, 'quiesce_web1.prom');
	const lines = (await readFile(file, 'utf8')).trimEnd().split('\n');
	expect(lines.length % 3).toBe(0);
	for (let at = 0; at < lines.length; at += 3) {
		const [name] = lines[at + 2]!.split('{');
		expect(lines[at]).toMatch(new RegExp(`^# HELP ${name!} .+\\.$`));
		expect(lines[at + 1]).toMatch(new RegExp(`^# TYPE ${name!} (gauge|counter)$`));
	}
	expect((await stat(file)).mode & 0o777).toBe(0o644);
	expect(await readdir(folder)).toEqual(['quiesce_web1.prom']);
});

test('a VM may be called anything', async () => {
	await recordFailure(folder, '../a "b"\\\n', 1);
	const [file] = await readdir(folder);
	expect(file).toBe('quiesce_..%2Fa%20%22b%22%5C%0A.prom');
	expect(await readFile(join(folder, file!), 'utf8')).toContain('quiesce_runs_total{vm="../a \\"b\\"\\\\\\n"} 1\n');
});

test('goes on from nothing where the file is no one of ours', async () => {
	await writeFile(join(folder, 'quiesce_web1.prom'), 'quiesce_runs_total{vm="web1"} NaN\nother{} 3\n\0');
	await recordFailure(folder, 'web1', 1);
	expect(await values()).toMatchObject({runs_total: '1', failures_total: '1'});
});
