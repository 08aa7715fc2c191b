import {mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {onTestFinished} from 'vitest';
import {launchQemu, type LaunchedQemu} from './launch-qemu.ts';

/** Its folder goes with the test. */
export type RealQemu = LaunchedQemu;

/**
 * Starts a QEMU without a guest, which ends with the test: `-M none` if `extraArgs` names no machine. Resolves once it
 * serves its monitors; throws what it printed if it ends before.
 */
export async function startQemu(...extraArgs: string[]): Promise<RealQemu> {
	const dir = await mkdtemp(join(tmpdir(), 'quiesce-real-qemu-'));
	onTestFinished(() => rm(dir, {recursive: true}));
	return launchQemu(dir, extraArgs, kill => {
		onTestFinished(kill);
	});
}
