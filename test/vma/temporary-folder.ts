import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import {onTestFinished} from 'vitest';

/** Gone when the test is over. */
export async function temporaryFolder(): Promise<string> {
	const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'quiesce-vma-'));
	onTestFinished(() => fs.rm(folder, {recursive: true}));
	return folder;
}
