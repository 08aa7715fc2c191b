import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';

/**
 * Deletes nodes that are not wanted any more, whatever lies upon whatever. Returns those that stay, as something still
 * uses them. Those that QEMU made by itself go with the one above them.
 */
export async function removeNodes(qmp: QmpConnection, names: readonly string[]): Promise<string[]> {
	for (;;) {
		const there = await presentNodes(qmp);
		const left = names.filter(name => there.has(name));
		const removed = await removeUnused(qmp, left);
		if (removed.length === 0) return left;
	}
}

/** One round: those that nothing uses. Returns which. */
export async function removeUnused(qmp: QmpConnection, names: readonly string[]): Promise<string[]> {
	const removed: string[] = [];
	for (const name of names) {
		try {
			await qmp.execute('blockdev-del', {'node-name': name});
			removed.push(name);
		} catch (error) {
			if (!(error instanceof QmpCommandError)) throw error;
		}
	}
	return removed;
}

async function presentNodes(qmp: QmpConnection): Promise<ReadonlySet<string>> {
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	return new Set(nodes.flatMap(node => node['node-name'] ?? []));
}
