import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {programBeside} from './program-beside.ts';

const PATIENCE_MS = 5_000;

/**
 * Whether the file system of a folder takes writes, or refuses them, in bounded time. One that hangs holds whoever writes
 * to it in a state that no signal ends, so another process tries. That one is left behind where it is held.
 */
export async function storageAnswers(folder: string, patienceMs = PATIENCE_MS): Promise<boolean> {
	const program = programBeside(import.meta.url, 'storage-probe');
	const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, folder], {
		stdio: 'ignore',
		detached: true,
	});
	const tooLate = AbortSignal.timeout(patienceMs);
	try {
		await once(child, 'exit', {signal: tooLate});
		return true;
	} catch (error) {
		if (!tooLate.aborted) throw error;
		child.unref();
		return false;
	}
}
