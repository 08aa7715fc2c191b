import path from 'node:path';

/** In the run's folder: whatever serves it is the run's, and a later run ends it. */
export function socketIn(folder: string): string {
	return path.join(folder, 'nbd.sock');
}
