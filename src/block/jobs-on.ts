import type {QmpDebugGraph} from '../qmp/schema.ts';

/**
 * The jobs that hold one of these nodes, or a filter above one. Only QEMU's debugging graph tells it, in all versions from
 * 5.2 to 11.1; `query-block-jobs` names a job's device as it was called when the job began.
 */
export function jobsOn({nodes, edges}: QmpDebugGraph, names: ReadonlySet<string>): readonly string[] {
	const byId = new Map(nodes.map(node => [node.id, node]));
	const reached = new Set(nodes.filter(({type, name}) => type === 'block-driver' && names.has(name)).map(({id}) => id));
	return nodes
		.filter(({type}) => type === 'block-job')
		.filter(({id}) =>
			edges.some(({parent, child}) => {
				if (parent !== id) return false;
				return reached.has(child) || filtersTo(child, reached);
			}),
		)
		.map(({name}) => name);

	/** A job's own filter lies above the disk's node, with one child that holds data. */
	function filtersTo(top: number, wanted: ReadonlySet<number>): boolean {
		const name = byId.get(top)?.name;
		return (
			name !== undefined &&
			edges.some(({parent, child, name: role}) => parent === top && role !== 'target' && wanted.has(child))
		);
	}
}
