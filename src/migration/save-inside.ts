import {performance} from 'node:perf_hooks';
import {concludeJob} from '../jobs/conclude-job.ts';
import type {NamedJob} from '../jobs/named-job.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import type {QmpSnapshotJob} from '../qmp/schema.ts';

/**
 * Has QEMU save RAM, devices and disks inside images. The VM stands still meanwhile, and goes on by itself if it ran, also if
 * it fails. QEMU answers nobody until it is through, so it can be neither followed nor cancelled. Returns for how many
 * milliseconds the VM did not run; 0 if it did not run before.
 */
export async function saveInside(
	qmp: QmpConnection,
	job: NamedJob,
	snapshot: Omit<QmpSnapshotJob, 'job-id'>,
): Promise<number> {
	const at = {stopped: 0, resumed: 0};
	// By QEMU's clock: the events may come all at once, when it is through.
	const seen = [
		qmp.on('STOP').subscribe({next: ({timestamp}) => (at.stopped = milliseconds(timestamp)), error: () => undefined}),
		qmp.on('RESUME').subscribe({next: ({timestamp}) => (at.resumed = milliseconds(timestamp)), error: () => undefined}),
	];
	const begun = performance.now();
	try {
		await concludeJob(qmp, job, () => qmp.execute('snapshot-save', {'job-id': job.id, ...snapshot}));
		if (at.stopped === 0 || at.resumed === 0) return 0;
		// The clock of the wall may have been set meanwhile.
		return Math.min(Math.max(0, at.resumed - at.stopped), performance.now() - begun);
	} finally {
		for (const one of seen) one.unsubscribe();
	}
}

function milliseconds({seconds, microseconds}: {readonly seconds: number; readonly microseconds: number}): number {
	return seconds * 1_000 + microseconds / 1_000;
}
