import {QuiesceError} from '../errors.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {isOver} from './status.ts';

/** In which a VM is at a state of its own that can be gone on from. */
const SAVABLE = new Set(['running', 'paused', 'prelaunch']);

/**
 * Throws `REFUSED`, with the reason, where the state of this VM cannot be saved now. What is found only when the migration
 * begins fails there, with nothing changed.
 */
export async function requireMigratable(qmp: QmpConnection): Promise<void> {
	const [info, {status}, jobs, exports] = await Promise.all([
		qmp.execute('query-migrate'),
		qmp.execute('query-status'),
		qmp.execute('query-jobs'),
		qmp.execute('query-block-exports'),
	]);
	if (!isOver(info)) {
		throw new QuiesceError('REFUSED', `a migration of this VM goes on already (${info.status ?? ''})`, {
			hint: 'Wait for its end; QEMU has one at a time.',
		});
	}
	if (status === 'postmigrate') {
		throw new QuiesceError('REFUSED', 'this VM was migrated or saved while it was paused, and has not run since', {
			hint: 'QEMU saves its state again only once it has run: `cont` on its monitor, unless it runs elsewhere now.',
		});
	}
	if (!SAVABLE.has(status)) {
		throw new QuiesceError('REFUSED', `the state of a VM that is ${status} cannot be saved`);
	}
	const [reason] = info['blocked-reasons'] ?? [];
	if (reason !== undefined) {
		throw new QuiesceError('REFUSED', `the memory of this VM cannot be saved: ${reason}`, {
			hint: 'Take the disks alone, without --memory; or start the VM without that device.',
		});
	}
	// QEMU closes the images for a moment, which whoever writes to them prevents: after the cut of the disks.
	const busy = [...jobs.filter(job => job.status !== 'concluded').map(({id}) => `job ${id}`)];
	busy.push(...exports.map(({id}) => `export ${id}`));
	if (busy.length > 0) {
		throw new QuiesceError(
			'REFUSED',
			`the memory of this VM cannot be saved while its disks are used by ${busy.join(', ')}`,
			{
				hint: 'Wait for the end, or end it.',
			},
		);
	}
}
