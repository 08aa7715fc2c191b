import {lastValueFrom, tap} from 'rxjs';
import type {Argv} from 'yargs';
import {UsageError} from '../../errors.ts';
import {prune, type PruneMessage, type PruneSummary} from '../../operations/prune.ts';
import type {RetentionRules, RetentionVerdict} from '../../repository/retention.ts';
import {exitCodeOf} from '../exit-codes.ts';
import {printMessage} from '../printer.ts';
import {printable} from '../printable.ts';
import {openProgressView, type ProgressView} from '../progress-lines.ts';
import {countOf, formatBytes, parseDuration} from '../quantities.ts';
import {parsePointName, type RepositoryOption, repositoryOf, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {type Column, formatTable} from '../table.ts';
import {printResult, styled} from '../terminal.ts';

const PERIODS = ['hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;

interface Options extends GlobalOptions, RepositoryOption {
	readonly point?: string;
	readonly keepLast?: string;
	readonly keepHourly?: string;
	readonly keepDaily?: string;
	readonly keepWeekly?: string;
	readonly keepMonthly?: string;
	readonly keepYearly?: string;
	readonly keepWithin?: string;
	readonly dryRun: boolean;
}

export function build(yargs: Argv): Argv {
	const ruled = repositoryOption(yargs)
		.usage(
			'$0 prune [VM] --keep-… -r FOLDER\n$0 prune VM@POINT -r FOLDER\n\nRemoves the points of each VM that no rule keeps, ' +
				'or the one that is named. Never by rules: protected points, damaged ones, and the last good one of a VM. What ' +
				'other points lie on is merged into them. Says of each point why it is kept or not.',
		)
		.positional('point', {type: 'string', describe: 'VM or VM@POINT; all VMs of the repository if left out'})
		.option('keep-last', {type: 'string', describe: 'Keep the newest N'});
	return PERIODS.reduce(
		(options, period) =>
			options.option(`keep-${period}`, {type: 'string', describe: `Keep the newest of each of N ${unitOf(period)}s`}),
		ruled,
	)
		.option('keep-within', {
			type: 'string',
			describe: 'Keep all that are not older than that before the newest: 36h, 14d, 8w',
		})
		.option('dry-run', {type: 'boolean', default: false, describe: 'Say what would be removed, and change nothing'})
		.group(['keep-last', ...PERIODS.map(period => `keep-${period}`), 'keep-within', 'dry-run', 'repository'], 'Prune:')
		.example('$0 prune -r /srv/backup --keep-daily 14 --keep-weekly 8 --dry-run', 'what would go, of all VMs')
		.example('$0 prune web1@2026-11-21T08-00-00Z -r /srv/backup', 'this point');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json, quiet, signal}) => {
		const named = options.point === undefined ? undefined : parsePointName(options.point);
		const rules = rulesOf(options);
		const view = openProgressView(quiet || json);
		const messages$ = prune({repository: repositoryOf(options), ...named, rules, dryRun: options.dryRun, signal});
		try {
			const last = await lastValueFrom(
				messages$.pipe(
					tap(message => {
						if (json) printMessage(message);
						else printWords(message, view, named?.vm);
					}),
				),
				{defaultValue: undefined},
			);
			return last?.kind === 'finished' ? exitCode(last) : undefined;
		} finally {
			view.end();
		}
	});
}

function unitOf(period: (typeof PERIODS)[number]): string {
	return period === 'daily' ? 'day' : period.slice(0, -2);
}

function rulesOf(options: Options): RetentionRules {
	const {keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly, keepYearly, keepWithin} = options;
	return {
		last: parseCount(keepLast, '--keep-last'),
		hourly: parseCount(keepHourly, '--keep-hourly'),
		daily: parseCount(keepDaily, '--keep-daily'),
		weekly: parseCount(keepWeekly, '--keep-weekly'),
		monthly: parseCount(keepMonthly, '--keep-monthly'),
		yearly: parseCount(keepYearly, '--keep-yearly'),
		withinMs: keepWithin === undefined ? undefined : parseDuration(keepWithin, '--keep-within'),
	};
}

function parseCount(text: string | undefined, option: string): number | undefined {
	if (text === undefined) return undefined;
	if (!/^\d{1,9}$/.test(text)) throw new UsageError(`${option}: '${text}' is not a number of points`);
	return Number(text);
}

/** What the operator has to see to first. */
function exitCode({damaged, failed, passedOver}: PruneSummary): number | undefined {
	if (damaged > 0) return exitCodeOf('DAMAGED');
	if (failed > 0) return exitCodeOf('FAILED');
	return passedOver.length > 0 ? exitCodeOf('LOCKED') : undefined;
}

function printWords(message: PruneMessage, view: ProgressView, asked: string | undefined): void {
	const warn = (text: string): void => {
		view.warn(`${styled('yellow', 'warning:')} ${printable(text)}`);
	};
	switch (message.kind) {
		case 'warning':
			warn(message.text);
			break;
		case 'recovered':
			view.note(printable(`${message.vm}: ${message.text}`));
			break;
		case 'decided':
			if (asked === undefined) printResult(`${printable(message.vm)}:`);
			if (message.points.length > 0) printResult(formatTable(COLUMNS, message.points));
			break;
		case 'merging':
			view.note(printable(`${message.vm}: merging ${message.disk} of ${message.point} into ${message.into}`));
			break;
		case 'progress': {
			const {disk, step, bytesDone, bytesTotal} = message;
			view.show([{name: printable(`${disk}: ${step}`), doneBytes: bytesDone, totalBytes: bytesTotal}]);
			break;
		}
		case 'merged':
			break;
		case 'not-merged':
			warn(`${message.vm}: ${message.disk} of ${message.point} is not merged into ${message.into}: ${message.why}`);
			break;
		case 'removed':
			view.note(printable(`${message.vm}@${message.point}: removed, ${formatBytes(message.bytesFreed)}`));
			break;
		case 'hidden':
			view.note(
				printable(
					`${message.vm}@${message.point}: removed, but its images are kept for ${countOf(message.dependents.length, 'point')}`,
				),
			);
			break;
		case 'passed-over':
			warn(`${message.vm} is passed over: ${message.why}`);
			break;
		case 'finished':
			printResult(summaryLine(message));
	}
}

const COLUMNS: readonly Column<RetentionVerdict>[] = [
	{title: 'VERDICT', value: ({decision}) => decision},
	{title: 'POINT', value: ({id}) => id},
	{title: 'WHY', value: ({why}) => withoutStandIn(why)},
];

/** The point that covers it has a row of its own, and both have to fit a terminal. */
function withoutStandIn(why: string): string {
	return why.replace(/ by \S+$/, '');
}

function summaryLine({dryRun, kept, removed, bytesFreed}: PruneSummary): string {
	const counts = `${countOf(kept, 'point')} kept, ${removed} ${dryRun ? 'would be removed' : 'removed'}`;
	if (dryRun) return `${counts}; nothing was changed`;
	// What is merged is not compressed, and can take more than the two images did.
	return `${counts}, ${formatBytes(Math.abs(bytesFreed))} ${bytesFreed < 0 ? 'more in use' : 'freed'}`;
}
