import type {QmpCommandName} from './schema.ts';

const DEFAULT_MS = 10_000;

/**
 * How long a command may take before its outcome counts as unknown. Named are those which drain, flush or open files,
 * and so wait for storage.
 */
const DEADLINES_MS: Partial<Record<QmpCommandName, number>> = {
	'blockdev-add': 30_000,
	'blockdev-del': 60_000,
	// It writes back what the page cache holds for an image, perhaps to a slow disk over a network.
	'blockdev-reopen': 1_800_000,
	// QEMU flushes every image when it pauses a VM, and opens them again after a migration.
	'stop': 60_000,
	'cont': 60_000,
	'blockdev-set-active': 60_000,
	// It waits for the flush at the end of a migration.
	'migrate_cancel': 60_000,
	'query-migrate': 60_000,
	'job-finalize': 60_000,
	'qom-set': 60_000,
	'query-qmp-schema': 30_000,
	'transaction': 60_000,
	// QEMU answers when it is through with all of the memory, and nobody until then.
	'snapshot-save': 86_400_000,
	'snapshot-load': 86_400_000,
};

export function deadlineMs(command: string): number {
	return (DEADLINES_MS as Partial<Record<string, number>>)[command] ?? DEFAULT_MS;
}
