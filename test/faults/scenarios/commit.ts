import {existsSync} from 'node:fs';
import {judgePoints, removePoints} from '../harness/points.ts';
import {onMonitor} from '../harness/qemu-state.ts';
import type {Scenario} from '../harness/scenario.ts';
import type {Stage, VmKind} from '../harness/stage.ts';

export const ON_QCOW2: VmKind = {name: 'qcow2', format: 'qcow2'};
/** What a snapshot calls the node of an overlay. */
const OVERLAY = /^qsc-[0-9a-f]{12}-/;

/** A disk whose merge was undone lies on its overlays still. */
export const OVERLAYS = /^no more: |qsc-[0-9a-f]{12}-|^now: node \S+: (file|raw|qcow2)(, read-only)?$/;

/** Of the overlays that a snapshot has put on all disks, while the guest goes on to write to them. */
export function commit(): Scenario {
	return {
		name: 'commit',
		vm: ON_QCOW2,
		arrange: async stage => {
			await backUp(stage);
			await putOverlays(stage);
		},
		repository: stage => stage.target,
		args: (stage, {slow}) => ['commit', ...stage.sockets, ...(slow ? ['--speed', '1M'] : [])],
		unfinished: () => Promise.resolve([]),
		judge: async (stage, ended) => {
			await backUp(stage);
			const overlays = await overlaysIn(stage);
			const gone = overlays.filter(file => !existsSync(file));
			if (gone.length > 0) throw new Error(`gone are ${gone.join(', ')}, on which the guest writes`);
			if (!ended) await putOverlays(stage);
			else if (overlays.length > 0) throw new Error(`not merged are ${overlays.join(', ')}`);
		},
		mayLeave: OVERLAYS,
		only: ['kill-tool', 'kill-with-guard'],
		at: {
			'kill-tool': [
				/^qmp <- block-commit #3$/,
				/^qmp -> job-complete #2$/,
				/^qmp <- JOB_STATUS_CHANGE concluded #1$/,
				/^host rm .*\.qcow2 #1$/,
			],
		},
	};
}

/** That what the disks hold is what the guest has written, as a point shows it. */
export async function backUp(stage: Stage): Promise<void> {
	await stage.succeed(['backup', ...stage.sockets, '-r', stage.target, '--quiesce', 'try', '--method', 'push']);
	await judgePoints(stage, stage.target);
	await removePoints(stage, stage.target);
}

/** On the disks that have none; of which there may be some where a run has died in the middle. */
async function putOverlays(stage: Stage): Promise<void> {
	if ((await overlaysIn(stage)).length > 0) return;
	await putOverlay(stage);
}

/** One more, on all disks or on some. */
export async function putOverlay(stage: Stage, disks: readonly string[] = []): Promise<void> {
	const name = `at-${Date.now()}`;
	await stage.succeed([
		'snapshot',
		'create',
		...stage.sockets,
		name,
		'--folder',
		stage.new('snapshots'),
		'--quiesce',
		'never',
		...disks.flatMap(disk => ['--disk', disk]),
	]);
}

/** The files of the overlays on which the disks lie. */
export function overlaysIn(stage: Stage): Promise<string[]> {
	return onMonitor(stage.guest, async execute => {
		const nodes = (await execute('query-named-block-nodes', {flat: true})) as {
			'node-name': string;
			'image': {filename: string};
		}[];
		const graph = (await execute('x-debug-query-block-graph')) as {
			nodes: {id: number; name: string}[];
			edges: {parent: number; child: number; name: string}[];
		};
		const overlays = graph.nodes.filter(({name}) => OVERLAY.test(name));
		return overlays.flatMap(({id}) => {
			const file = graph.edges.find(edge => edge.parent === id && edge.name === 'file')?.child;
			const below = graph.nodes.find(node => node.id === file)?.name;
			return nodes.find(node => node['node-name'] === below)?.image.filename ?? [];
		});
	});
}
