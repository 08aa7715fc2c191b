import {lastValueFrom, toArray} from 'rxjs';
import type {Argv} from 'yargs';
import {list, type ListMessage} from '../../operations/list.ts';
import type {PointManifest} from '../../repository/manifest.ts';
import {archiveNamed} from '../archive/archive-name.ts';
import {reasonLines} from '../backup-printer.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {countOf, formatBytes, formatSeconds} from '../quantities.ts';
import {type RepositoryOption, repositoryOf, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {type Column, formatTable} from '../table.ts';
import {printNote, printResult} from '../terminal.ts';

interface Options extends GlobalOptions, RepositoryOption {
	readonly vm?: string;
}

export function build(yargs: Argv): Argv {
	return repositoryOption(yargs)
		.usage(
			'$0 list [VM] -r FOLDER\n$0 list FILE.vma\n\nLists the points of a repository, oldest first, or the disks of an archive.',
		)
		.positional('vm', {type: 'string', describe: 'Only the points of this VM; or an archive'})
		.example('$0 list -r /srv/backup', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {json} = context;
		const archive = archiveNamed(options.vm);
		if (archive) {
			const {printArchive} = await import('../archive/list-archive.ts');
			await printArchive(archive, context);
			return undefined;
		}
		const messages = await lastValueFrom(list({repository: repositoryOf(options), vm: options.vm}).pipe(toArray()), {
			defaultValue: [],
		});
		const rows = messages.map(rowOf);
		if (json) printResult(toJson(rows));
		else if (rows.length === 0) printNote('the repository holds no points yet');
		else printResult(withReasons(formatTable(COLUMNS, rows), rows));
		return undefined;
	});
}

interface Row {
	readonly vm: string;
	readonly point: string;
	readonly state: 'whole' | 'damaged' | 'partial';
	readonly kind: string;
	readonly consistency: string;
	readonly disks: number;
	readonly sizeBytes: number;
	readonly storedBytes: number;
	readonly protected: boolean;
	readonly warnings: readonly string[];
	readonly group: PointManifest['group'];
	/** The other points of the group that are not there, as VM@POINT. */
	readonly groupLacks: readonly string[];
	/** Of each disk that is not what it could have been: why. */
	readonly reasons: readonly string[];
}

const COLUMNS: readonly Column<Row>[] = [
	{title: 'POINT', value: ({vm, point}) => printable(`${vm}@${point}`)},
	{title: 'KIND', value: ({kind, state}) => (state === 'whole' ? kind : state.toUpperCase())},
	{title: 'CONSISTENCY', value: ({consistency}) => printable(consistency)},
	{title: 'DISKS', value: ({disks}) => (disks === 0 ? '' : String(disks)), align: 'right'},
	{title: 'SIZE', value: ({sizeBytes}) => (sizeBytes === 0 ? '' : formatBytes(sizeBytes)), align: 'right'},
	{title: 'STORED', value: ({storedBytes}) => (storedBytes === 0 ? '' : formatBytes(storedBytes)), align: 'right'},
];

/** Below each point. */
function withReasons(table: string, rows: readonly Row[]): string {
	const [title = '', ...lines] = table.split('\n');
	return [title, ...lines.flatMap((line, index) => [line, ...notesOf(rows[index]).map(words)])].join('\n');
}

function notesOf(row: Row | undefined): readonly string[] {
	return row ? [...(row.protected ? ['protected'] : []), ...groupWords(row.group, row.groupLacks), ...row.reasons] : [];
}

/** One line. The group of one whose others are not all there is incomplete. */
function groupWords(group: Row['group'], lacks: readonly string[]): string[] {
	if (!group) return [];
	if (lacks.length > 0) return [`of group ${group.name}, which is incomplete: ${lacks.join(', ')} is not there`];
	return [
		`of group ${group.name}: ${countOf(group.members.length, 'VM')} cut within ${formatSeconds(group.skewSeconds)}`,
	];
}

function words(reason: string): string {
	return `  ${printable(reason)}`;
}

function rowOf(message: ListMessage): Row {
	const nothing = {
		...{kind: '', disks: 0, sizeBytes: 0, storedBytes: 0, protected: false, warnings: [], reasons: []},
		...{group: null, groupLacks: []},
	};
	if (message.kind === 'partial') {
		const whose = {alive: 'being written', dead: 'left by a dead run', unknown: 'of another host'}[message.owner];
		return {...nothing, vm: message.vm, point: message.partial.id, state: 'partial', consistency: whose};
	}
	const {vm, point, missing} = message;
	if (point.state === 'damaged') {
		const {id, reason, isProtected} = point;
		return {...nothing, vm, point: id, state: 'damaged', consistency: reason, protected: isProtected};
	}
	const {kind, consistency, disks, warnings, group} = point.manifest;
	return {
		vm,
		point: point.id,
		state: 'whole',
		kind,
		consistency,
		disks: disks.length,
		sizeBytes: disks.reduce((sum, disk) => sum + disk.sizeBytes, 0),
		storedBytes: disks.reduce((sum, disk) => sum + disk.addedBytes, 0),
		protected: point.isProtected,
		warnings,
		group,
		groupLacks: missing.map(other => `${other.vm}@${other.point}`),
		reasons: reasonLines(disks),
	};
}
