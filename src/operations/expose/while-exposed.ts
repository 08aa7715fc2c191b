import {setTimeout as delay} from 'node:timers/promises';
import {ignoreElements, merge} from 'rxjs';
import {asError, QuiesceError} from '../../errors.ts';
import {scratchFolders} from '../choose-method.ts';
import type {CopyTask} from '../copy-task.ts';
import {exportsEnvironment} from '../exports-environment.ts';
import {runCommand} from '../freeze.ts';
import {watchSpace} from '../watch-space.ts';
import type {ExposedDisk, ExposeRequest} from './expose-messages.ts';

/**
 * Runs the command, or waits for the signal, for as long as all is well: what `broken` tells of, scratch that fills and the
 * deadline end it. Returns the command's exit status.
 */
export async function whileExposed(
	{request, chosen, vm}: {readonly request: ExposeRequest} & Pick<CopyTask, 'chosen' | 'vm'>,
	disks: readonly ExposedDisk[],
	broken: AbortController,
): Promise<number | null> {
	const {command, deadlineMs: holdMs, commandOutput} = request;
	const hint = 'Scratch is there: name another folder with --scratch.';
	const space = scratchFolders(chosen).map(folder => watchSpace(folder, hint));
	// It fails when QEMU goes away.
	const gone$ = vm.qmp.on('SHUTDOWN').pipe(ignoreElements());
	const watching = merge(gone$, ...space).subscribe({
		error: (error: unknown) => {
			broken.abort(error);
		},
	});
	try {
		if (!command) {
			await ended(request, broken.signal);
			return null;
		}
		const signal = AbortSignal.any([request.signal, broken.signal]);
		signal.throwIfAborted();
		const environment = exportsEnvironment(disks);
		return await runCommand(
			{...{holdMs, signal, commandOutput, environment}, meanwhile: 'the disks were exposed'},
			command,
		);
	} finally {
		watching.unsubscribe();
	}
}

async function ended({signal, deadlineMs}: ExposeRequest, broken: AbortSignal): Promise<void> {
	try {
		await delay(deadlineMs, undefined, {signal: AbortSignal.any([signal, broken])});
	} catch {
		// Only an abort ends it before its time.
		if (broken.aborted) throw asError(broken.reason);
		return;
	}
	throw new QuiesceError('FAILED', `the disks were exposed for ${deadlineMs / 1000} s, and are not any more`, {
		hint: 'Give readers more time with --deadline.',
	});
}
