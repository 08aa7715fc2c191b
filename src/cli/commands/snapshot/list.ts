import type {Argv} from 'yargs';
import {listVmSnapshots, type ListedDisk, type ListedSnapshot} from '../../../operations/snapshot-list.ts';
import {toJson} from '../../json.ts';
import {groupWords} from '../../group-printer.ts';
import {printable} from '../../printable.ts';
import {formatBytes} from '../../quantities.ts';
import {type GlobalOptions, runCommand} from '../../run-command.ts';
import {type Column, formatTable} from '../../table.ts';
import {printNote, printResult} from '../../terminal.ts';
import {type OffOptions, offOptions, vmOf} from '../../off-options.ts';
import {type VmOptions, vmOptions} from '../../vm-options.ts';

interface Options extends GlobalOptions, VmOptions, OffOptions {
	readonly folder?: string;
}

export function build(yargs: Argv): Argv {
	return offOptions(vmOptions(yargs))
		.usage(
			'$0 snapshot list VM\n\nLists the snapshots of a VM, external and internal ones, and shows what each of its disks is made of: ' +
				'the image that the guest writes to, and what that lies on.',
		)
		.option('folder', {type: 'string', describe: 'Look for snapshots there too', group: 'Snapshot:'})
		.example('$0 snapshot list web1', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json, signal, transcript, tell}) => {
		const sockets = await vmOf(options);
		const request = {sockets, folder: options.folder, signal, transcript, tell};
		const report = await listVmSnapshots(request);
		if (json) printResult(toJson(report));
		else {
			if (report.snapshots.length === 0) printNote('the VM has no snapshots');
			else printResult(withGroups(formatTable(COLUMNS, report.snapshots), report.snapshots));
			for (const disk of report.disks) printResult(treeOf(disk).join('\n'));
		}
		return undefined;
	});
}

const COLUMNS: readonly Column<ListedSnapshot>[] = [
	{title: 'SNAPSHOT', value: ({name}) => printable(name)},
	{title: 'KIND', value: ({kind, memory, vmState}) => ((memory ?? vmState) ? `${kind}, memory` : kind)},
	{title: 'CUT', value: ({cutAt}) => cutAt ?? ''},
	{
		title: 'CONSISTENCY',
		value: ({state, consistency}) => (state === 'whole' ? printable(consistency ?? '') : state.toUpperCase()),
	},
	{title: 'DISKS', value: ({disks}) => printable(disks.join(','))},
	{
		title: 'WRITTEN SINCE',
		value: ({overlayBytes}) => (overlayBytes === null ? '' : formatBytes(overlayBytes)),
		align: 'right',
	},
];

/** Below each snapshot of a group. */
function withGroups(table: string, snapshots: readonly ListedSnapshot[]): string {
	const [title = '', ...lines] = table.split('\n');
	const groupLine = ({group, groupLacks}: ListedSnapshot): string[] => {
		if (!group) return [];
		const lacks = groupLacks.map(({vm}) => vm).join(', ');
		const words =
			lacks === '' ? groupWords(group) : `${group.name}, which is incomplete: that of ${lacks} is not there`;
		return [printable(`  of group ${words}`)];
	};
	return [title, ...lines.flatMap((line, at) => [line, ...snapshots.slice(at, at + 1).flatMap(groupLine)])].join('\n');
}

function treeOf({name, sizeBytes, images}: ListedDisk): string[] {
	const lines = images.flatMap(({file, format, allocatedBytes, holds, usedBy, internal}, depth) => {
		const branch = depth === 0 ? '' : `${'   '.repeat(depth - 1)}└─ `;
		const indent = '   '.repeat(depth);
		const facts = [
			format,
			...(allocatedBytes === null ? [] : [formatBytes(allocatedBytes)]),
			...(depth === 0 ? ['the guest writes to it'] : []),
			...(holds.length === 0 ? [] : [`holds ${holds.join(', ')}`]),
		];
		return [
			`  ${branch}${file}  (${facts.join('; ')})`,
			// That the image above lies on it can be seen.
			...usedBy.slice(depth === 0 ? 0 : 1).map(user => `  ${indent}also used by ${user}`),
			...internal.map(
				({name: snapshot, takenAt}) => `  ${indent}has ${snapshot} in itself, of ${takenAt.toISOString()}`,
			),
		];
	});
	return [`${name}, ${formatBytes(sizeBytes)}`, ...lines].map(printable);
}
