import type {Argv} from 'yargs';
import {missingOfGroup} from '../../repository/group.ts';
import type {GroupedPoint, GroupRecord} from '../../repository/manifest.ts';
import {readMachine, resolvePoint} from '../../repository/points.ts';
import {openRepository} from '../../repository/repository.ts';
import {reasonLines} from '../backup-printer.ts';
import {standstillWords} from '../cut-printer.ts';
import {groupWords} from '../group-printer.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {formatBytes, formatSeconds} from '../quantities.ts';
import {parsePointName, type RepositoryOption, repositoryOf, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {formatTable} from '../table.ts';
import {printResult} from '../terminal.ts';

interface Options extends GlobalOptions, RepositoryOption {
	readonly point: string;
}

export function build(yargs: Argv): Argv {
	return repositoryOption(yargs)
		.usage('$0 show VM[@POINT] -r FOLDER\n\nShows all that is known of a point; without @POINT, of the newest.')
		.positional('point', {type: 'string', demandOption: true, describe: 'VM or VM@POINT'})
		.example('$0 show web1@2026-11-21T08-00-00Z -r /srv/backup', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json}) => {
		const {vm, point: id} = parsePointName(options.point);
		const repository = await openRepository(repositoryOf(options));
		const point = await resolvePoint(repository, vm, id);
		const {manifest, folder} = point;
		const missing = await missingOfGroup(repository, manifest);
		if (json) {
			const groupLacks = missing.map(pointName);
			printResult(
				toJson({...manifest, ...(manifest.group ? {groupLacks} : {}), folder, machine: await readMachine(point)}),
			);
			return undefined;
		}
		const {freeze, standstill, group, qemu} = manifest;
		const facts: [string, string][] = [
			['point', `${manifest.vm}@${manifest.id}`],
			['folder', folder],
			['kind', manifest.kind],
			['cut at', manifest.cutAt],
			['finished', manifest.finishedAt],
			['consistency', manifest.consistency],
			...(freeze
				? [
						[
							'frozen',
							`${freeze.fileSystems} file systems; freeze ${formatSeconds(freeze.freezeSeconds)}, ` +
								`held ${formatSeconds(freeze.heldSeconds)}, thaw ${formatSeconds(freeze.thawSeconds)}`,
						] satisfies [string, string],
					]
				: []),
			...(standstill ? [['at the cut', standstillWords(standstill)] satisfies [string, string]] : []),
			...(group ? groupFacts(group, missing) : []),
			['taken by', `quiesce ${manifest.tool.version}, ${manifest.method} into ${manifest.sink}, run ${manifest.run}`],
			['QEMU', `${qemu.version} (${qemu.package})`],
			...reasonLines(manifest.disks).map((text): [string, string] => ['kind of', text]),
			...manifest.skipped.map(({name, reason}): [string, string] => ['left out', `${name}: ${reason}`]),
			...manifest.warnings.map((text): [string, string] => ['warning', text]),
		];
		for (const [title, value] of facts) printResult(`${title.padEnd(12)} ${printable(value)}`);
		printResult('');
		printResult(
			formatTable(
				[
					{title: 'DISK', value: disk => printable(disk.name)},
					{title: 'KIND', value: disk => disk.kind},
					{title: 'ON', value: disk => disk.backing ?? (disk.layout === 'clone' ? 'a clone' : '')},
					{title: 'FILE', value: disk => disk.file},
					{title: 'SIZE', value: disk => formatBytes(disk.sizeBytes), align: 'right'},
					{title: 'STORED', value: disk => formatBytes(disk.addedBytes), align: 'right'},
					{title: 'WAS', value: disk => printable(disk.format)},
				],
				manifest.disks,
			),
		);
		return undefined;
	});
}

function groupFacts(group: GroupRecord, missing: readonly GroupedPoint[]): [string, string][] {
	return [
		['group', groupWords(group)],
		...group.members.map((member): [string, string] => [
			'',
			`${pointName(member)}, ${member.consistency}${missing.includes(member) ? ', is not there: the group is incomplete' : ''}`,
		]),
	];
}

function pointName({vm, point}: GroupedPoint): string {
	return `${vm}@${point}`;
}
