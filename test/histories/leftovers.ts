import {readdir} from 'node:fs/promises';
import {join} from 'node:path';
import {ourProcesses} from '../faults/harness/processes.ts';
import type {HistoryVm} from './vm.ts';
import type {World} from './world.ts';

/** What is there and should not be: in QEMU, among the processes, in the folders. */
export async function leftovers(vm: HistoryVm, world: World, runtimeDir: string): Promise<string[]> {
	const jobs = (await vm.execute('query-jobs')) as {id: string}[];
	const nodes = (await vm.execute('query-named-block-nodes', {flat: true})) as {'node-name': string; 'drv': string}[];
	const chains = [...world.chains.values()].flat();
	const known = new Set([...chains, ...world.spare.keys()]);
	const files = (await readdir(vm.images)).map(name => join(vm.images, name));
	const folder = join(vm.images, `${vm.name}.snapshots`);
	const notes = await readdir(folder).catch(() => []);
	// A format and a protocol for each image.
	const isRight = nodes.length === 2 * chains.length;
	const names = nodes.map(node => `${node['node-name']} (${node.drv})`).join(', ');
	return [
		...jobs.map(({id}) => `job ${id}`),
		...(isRight ? [] : [`these nodes for ${chains.length} images: ${names}`]),
		...(await ourProcesses(runtimeDir)).map(({commandLine}) => commandLine),
		...(await readdir(runtimeDir).catch(() => [])).map(name => join(runtimeDir, name)),
		...files.filter(file => file !== folder && !known.has(file)),
		...notes.filter(name => !world.snapshots.has(name)).map(name => join(folder, name)),
	];
}
