import fs from 'node:fs/promises';
import path from 'node:path';

const NAME = 'pausing';

/**
 * Before a run pauses its VM: from this mark a later run can tell that a VM which it finds paused is to go on. In the
 * run's folder, which outlives the run only if that dies.
 */
export async function markPausing(folder: string): Promise<void> {
	await fs.writeFile(path.join(folder, NAME), '', {mode: 0o600});
}

export async function clearPausing(folder: string): Promise<void> {
	await fs.rm(path.join(folder, NAME), {force: true});
}

export async function wasPausing(folder: string): Promise<boolean> {
	return fs.access(path.join(folder, NAME)).then(
		() => true,
		() => false,
	);
}
