import {rm, writeFile} from 'node:fs/promises';
import {basename, join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {outcome, output} from '../../../guest/command.ts';
import type {Fault} from '../fault.ts';
import {remount} from '../file-systems.ts';
import {COPYING, CUT_IS_TAKEN} from '../steps.ts';

/** Longer than any stall that is allowed. */
const STALLED_MS = 6_000;

/** To the last byte. Returns what makes room again. */
async function fill(folder: string): Promise<() => Promise<void>> {
	const ballast = join(folder, 'ballast');
	const {code, stderr} = await outcome('dd', ['if=/dev/zero', `of=${ballast}`, 'bs=64K', 'conv=fsync']);
	if (code === 0 || !stderr.includes('No space left')) throw new Error(`${folder} was not filled: ${stderr}`);
	return () => rm(ballast);
}

const target = {
	run: 'lives',
	guestBackAfter: 'heal',
	slow: true,
	arrange: (stage, {fileSystem = 'ext4'}) => stage.putTargetOn(fileSystem),
	sample: [COPYING],
} as const satisfies Partial<Fault>;

const full: Fault = {
	...target,
	name: 'target-full',
	title: 'The target is full (ENOSPC)',
	strike: ({stage}) => fill(join(stage.target, '..')),
};

const broken: Fault = {
	...target,
	name: 'target-eio',
	title: 'Whatever is done to the target fails (EIO)',
	// What cannot be removed from there, and a note of where it is.
	mayLeave: /^unfinished point: |^in the runtime folder: run-/,
	strike: async ({stage}) => {
		await stage.native.fault('break', join(stage.target, '..'));
		return () => remount(join(stage.target, '..'));
	},
};

const readonly_: Fault = {
	...target,
	name: 'target-readonly',
	title: 'The target becomes read-only, as ext4 does after an error',
	// What cannot be removed from there, and a note of where it is.
	mayLeave: /^unfinished point: |^in the runtime folder: run-/,
	strike: async ({stage}) => {
		const device = (await output('findmnt', ['-no', 'SOURCE', join(stage.target, '..')])).trim();
		await writeFile(`/sys/fs/ext4/${basename(device)}/trigger_fs_error`, '1');
		return () => remount(join(stage.target, '..'));
	},
};

const stalled: Fault = {
	...target,
	name: 'target-stalled',
	title: 'The target stalls for 6 s',
	strike: async ({stage, goOn}) => {
		const folder = join(stage.target, '..');
		await output('fsfreeze', ['-f', folder]);
		try {
			goOn();
			await delay(STALLED_MS);
		} finally {
			await output('fsfreeze', ['-u', folder]);
		}
		return undefined;
	},
};

const deleted: Fault = {
	name: 'target-deleted',
	title: 'What is being written is deleted (rm -rf)',
	run: 'lives',
	guestBackAfter: 'heal',
	slow: true,
	strike: async ({scenario, stage}) => {
		// What still writes makes files anew meanwhile.
		for (const folder of await scenario.unfinished(stage)) {
			await rm(folder, {recursive: true, force: true, maxRetries: 10, retryDelay: 20});
		}
		return undefined;
	},
	expects: code => {
		if (code === 0) throw new Error('it says that it succeeded');
	},
	at: /^qmp .. (transaction|query-jobs #2|job-|qom-set|BLOCK_JOB|JOB_STATUS)|^host start qemu-img convert/,
	sample: [COPYING],
};

const scratchFull: Fault = {
	name: 'scratch-full',
	title: 'The scratch folder is full (ENOSPC)',
	run: 'lives',
	guestBackAfter: 'heal',
	slow: true,
	arrange: async stage => {
		await output('mount', ['-t', 'tmpfs', '-o', 'size=64M,mode=0700', 'tmpfs', stage.scratch]);
		return async () => {
			await output('umount', [stage.scratch]);
		};
	},
	strike: ({stage}) => fill(stage.scratch),
	sample: [CUT_IS_TAKEN],
};

export const STORAGE: readonly Fault[] = [full, broken, readonly_, stalled, deleted, scratchFull];
