import * as v from 'valibot';
import {UsageError} from '../errors.ts';
import {parseAddress} from './address.ts';
import {readBytes, readDuration} from './quantities.ts';

const text = v.pipe(v.string(), v.nonEmpty('is empty'));
const path = v.pipe(text, v.startsWith('/', 'has to be a path from the root'));
const duration = v.pipe(
	v.union([v.string(), v.number()], 'is not a duration, such as 30s, 5m or 7d'),
	v.check(value => readDuration(String(value)) !== undefined, 'is not a duration, such as 30s, 5m or 7d'),
);
const bytes = v.pipe(
	v.union([v.string(), v.number()], 'is not a number of bytes, such as 64M'),
	v.check(value => readBytes(String(value)) !== undefined, 'is not a number of bytes, such as 64M'),
);
const count = v.pipe(v.number('is not a number'), v.integer('is not a whole number'), v.minValue(0, 'is less than 0'));
const address = v.pipe(
	text,
	v.rawCheck(({dataset, addIssue}) => {
		if (!dataset.typed) return;
		try {
			parseAddress(dataset.value);
		} catch (error) {
			if (!(error instanceof UsageError)) throw error;
			addIssue({message: [error.message, error.hint].filter(words => words !== undefined).join('. ')});
		}
	}),
);
const name = v.pipe(
	v.string(),
	v.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, 'is no name: letters, digits, dots, dashes and underscores, at most 64'),
);

/** Options of `backup`, spelt with underscores. */
const backupPolicy = v.strictObject({
	quiesce: v.optional(v.picklist(['require', 'try', 'never'])),
	freeze_timeout: v.optional(duration),
	disk: v.optional(v.array(text)),
	exclude: v.optional(v.array(text)),
	kind: v.optional(v.picklist(['auto', 'full', 'incremental', 'differential'])),
	full_every: v.optional(duration),
	granularity: v.optional(bytes),
	method: v.optional(v.picklist(['fleece', 'push', 'overlay', 'pull'])),
	layout: v.optional(v.picklist(['auto', 'chain', 'clone'])),
	compress: v.optional(v.picklist(['zstd', 'none'])),
	sink: v.optional(v.picklist(['daemon', 'inline'])),
	scratch: v.optional(path),
	max_stall: v.optional(duration),
	target_timeout: v.optional(duration),
	speed: v.optional(bytes),
});

/** Options of `prune`, spelt with underscores. */
const prunePolicy = v.strictObject({
	keep_last: v.optional(count),
	keep_hourly: v.optional(count),
	keep_daily: v.optional(count),
	keep_weekly: v.optional(count),
	keep_monthly: v.optional(count),
	keep_yearly: v.optional(count),
	keep_within: v.optional(duration),
});

const vm = v.strictObject({
	qmp: v.optional(address),
	agent: v.optional(address),
	repository: v.optional(path),
	backup: v.optional(backupPolicy),
});

const whenItFails = v.optional(v.picklist(['abort', 'warn']));
const url = v.pipe(v.string(), v.url('is no URL'), v.regex(/^https?:/, 'has to begin with http:// or https://'));

const action = v.union(
	[
		v.strictObject({
			command: v.pipe(v.array(text), v.minLength(1, 'names no program')),
			timeout: v.optional(duration),
			on_failure: whenItFails,
		}),
		v.strictObject({ping: url, timeout: v.optional(duration), on_failure: whenItFails}),
		v.strictObject({ping_file: path, timeout: v.optional(duration), on_failure: whenItFails}),
	],
	'has to have one of command (a list of words), ping (a URL) and ping_file (a file with a URL); besides, timeout and on_failure (abort or warn)',
);

/** What a run comes through, in its order. */
export const MOMENTS = ['run_start', 'pre_freeze', 'frozen', 'thawed', 'copied', 'success', 'failure'] as const;

const hooks = v.strictObject({
	run_start: v.optional(v.array(action)),
	pre_freeze: v.optional(v.array(action)),
	frozen: v.optional(v.array(action)),
	thawed: v.optional(v.array(action)),
	copied: v.optional(v.array(action)),
	success: v.optional(v.array(action)),
	failure: v.optional(v.array(action)),
} satisfies Record<(typeof MOMENTS)[number], unknown>);

/** What a config file may say. */
export const configSchema = v.strictObject({
	/** Where points are kept, where a VM says nothing else. */
	repository: v.optional(path),
	backup: v.optional(backupPolicy),
	prune: v.optional(prunePolicy),
	vms: v.optional(v.record(text, v.nullable(vm)), {}),
	groups: v.optional(v.record(name, v.pipe(v.array(text), v.minLength(2, 'has less than two VMs'))), {}),
	hooks: v.optional(hooks, {}),
	/** A folder, for node_exporter. */
	metrics: v.optional(path),
});

export type Config = v.InferOutput<typeof configSchema>;
export type HookAction = v.InferOutput<typeof action>;
