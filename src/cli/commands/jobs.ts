import type {Argv} from 'yargs';
import {UsageError} from '../../errors.ts';
import type {JobReport} from '../../operations/inspect.ts';
import {
	changeJobs,
	type JobChange,
	type JobsRequest,
	listJobs,
	watchJobs,
	type WatchMessage,
} from '../../operations/jobs.ts';
import {exitCodeOf} from '../exit-codes.ts';
import {formatJobs} from '../job-table.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {openPrinter, printAll} from '../printer.ts';
import type {ProgressView} from '../progress-lines.ts';
import {parseBytes} from '../quantities.ts';
import {type CommandContext, type GlobalOptions, runCommand} from '../run-command.ts';
import {printNote, printResult, styled} from '../terminal.ts';
import {allSocketsOf, type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions {
	readonly action?: readonly string[];
}

export function build(yargs: Argv): Argv {
	return vmOptions(yargs)
		.usage(
			'$0 jobs [VM]\n$0 jobs [VM] watch|pause|resume|cancel [JOB]\n$0 jobs [VM] speed BYTES [JOB]\n\nLists the jobs of a ' +
				'VM, or changes them: those of this program, or the one that is named, whoever it belongs to. Connects to the ' +
				'first of its monitors that is free.',
		)
		.positional('action', {type: 'string', describe: 'watch, pause, resume, cancel or speed, and of which job'})
		.example('$0 jobs web1', '')
		.example('$0 jobs web1 speed 50M', '50 MiB a second for each job of this program')
		.example('$0 jobs web1 watch mirror0', 'until this job has ended');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		// With --qmp there is no VM, so what stands there is the action.
		const words = options.qmp === undefined ? [] : [options.vm ?? []].flat();
		const [action, ...rest] = [...words, ...(options.action ?? [])];
		const vm = options.qmp === undefined ? options.vm : undefined;
		const request = {...context, sockets: await allSocketsOf({...options, vm})};
		if (action === undefined) {
			const jobs = await listJobs(request);
			if (context.json) printResult(toJson(jobs));
			else if (jobs.length > 0) printResult(formatJobs(jobs));
			else if (!context.quiet) printNote('the VM has no jobs');
			return undefined;
		}
		if (action === 'watch') return watch(request, context, only(rest));
		const {change, id} = changeOf(action, rest);
		const changed = await changeJobs(request, change, id);
		if (context.json) printResult(toJson({action, jobs: changed}));
		else if (!context.quiet) printNote(printable(`${action}: ${changed.join(', ')}`));
		return undefined;
	});
}

function changeOf(action: string, rest: readonly string[]): {change: JobChange; id: string | undefined} {
	switch (action) {
		case 'pause':
		case 'resume':
		case 'cancel':
			return {change: {kind: action}, id: only(rest)};
		case 'speed': {
			const [bytes, ...ids] = rest;
			if (bytes === undefined)
				throw new UsageError('speed: how many bytes per second is not said', {hint: 'As in: speed 50M'});
			return {change: {kind: action, bytes: parseBytes(bytes, 'speed')}, id: only(ids)};
		}
		default:
			throw new UsageError(`'${action}' is nothing that can be done to jobs`, {
				hint: 'watch, pause, resume, cancel or speed.',
			});
	}
}

function only([id, ...others]: readonly string[]): string | undefined {
	if (others.length > 0) throw new UsageError(`only one job can be named, and '${others.join(' ')}' is more`);
	return id;
}

async function watch(
	request: JobsRequest,
	context: CommandContext,
	id: string | undefined,
): Promise<number | undefined> {
	const last = await printAll(watchJobs(request, id), openPrinter(context, printWords));
	return last?.kind === 'finished' && last.failed > 0 ? exitCodeOf('JOB_FAILED') : undefined;
}

function printWords(message: WatchMessage, view: ProgressView): void {
	if (message.kind === 'progress' && message.jobs.length > 0) view.show(message.jobs.map(progressOf));
	if (message.kind !== 'ended') return;
	if (message.error === null) view.note(printable(`${message.id}: done`));
	else view.warn(`${styled('red', 'failed:')} ${printable(`${message.id}: ${message.error}`)}`);
}

function progressOf({id, status, doneBytes, totalBytes}: JobReport) {
	return {name: printable(`${id} (${status})`), doneBytes, totalBytes};
}
