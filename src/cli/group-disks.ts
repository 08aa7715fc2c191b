import {UsageError} from '../errors.ts';
import type {DiskSelection} from '../operations/select-disks.ts';

/** In a group a disk is named with its VM. */
export function groupDisks(
	vms: readonly string[],
	{
		disk = [],
		exclude = [],
	}: {readonly disk?: readonly string[] | undefined; readonly exclude?: readonly string[] | undefined},
): ReadonlyMap<string, DiskSelection> {
	const selections = new Map<string, {only?: string[]; exclude?: string[]}>(vms.map(vm => [vm, {}]));
	const add = (option: 'disk' | 'exclude', text: string): void => {
		const vm = vms.find(candidate => text.startsWith(`${candidate}:`));
		const selection = selections.get(vm ?? '');
		if (vm === undefined || !selection) {
			throw new UsageError(`--${option}: '${text}' names no disk of the group`, {
				hint: `Name it with its VM, such as ${vms[0] ?? ''}:vda.`,
			});
		}
		(selection[option === 'disk' ? 'only' : 'exclude'] ??= []).push(text.slice(vm.length + 1));
	};
	for (const text of disk) add('disk', text);
	for (const text of exclude) add('exclude', text);
	return selections;
}
