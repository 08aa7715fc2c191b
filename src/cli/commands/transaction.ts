import fs from 'node:fs/promises';
import type {Argv} from 'yargs';
import {asError, UsageError} from '../../errors.ts';
import {parseTransaction} from '../../operations/transaction/plan.ts';
import {transact, type TransactMessage} from '../../operations/transaction/transact.ts';
import {STDIN} from '../archive/archive-name.ts';
import {quiesceWishes} from '../cut-options.ts';
import {printCut} from '../cut-printer.ts';
import {rawJson, toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {openPrinter, printAndLog, printMessage, type Printer} from '../printer.ts';
import type {ProgressView} from '../progress-lines.ts';
import {countOf} from '../quantities.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';
import {socketsOf, type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions {
	readonly file?: string;
	readonly quiesce: 'require' | 'try' | 'never';
	readonly freezeTimeout: string;
	readonly dryRun: boolean;
}

/** Nobody writes longer ones by hand. */
const MAX_BYTES = 4 * 1024 * 1024;

export function build(yargs: Argv): Argv {
	return vmOptions(yargs)
		.usage(
			"$0 transaction VM FILE\n\nCarries out actions of QEMU's transaction at one instant, as a file in YAML or JSON lists them, with " +
				'`disk:NAME` in the place of a node; follows the jobs that they start to their end. Nothing is sent before the schema of this ' +
				'QEMU has nothing against any of it. If anything fails the jobs are cancelled, and what the file has under `cleanup` is done.',
		)
		.positional('file', {type: 'string', describe: 'The file, or - for stdin'})
		.option('quiesce', {
			choices: ['require', 'try', 'never'] as const,
			default: 'never',
			describe: 'Whether to freeze the guest around it: fail if it cannot be, say so, or do not',
			group: 'Transaction:',
		})
		.option('freeze-timeout', {
			type: 'string',
			default: '60s',
			describe: 'How long the freeze and its hooks may take',
			group: 'Transaction:',
		})
		.option('dry-run', {
			type: 'boolean',
			default: false,
			describe: 'Print what would be sent, and send nothing',
			group: 'Transaction:',
		})
		.example('$0 transaction web1 two-disks.yaml --quiesce require', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		// With --qmp there is no VM, so what stands there is the file.
		const [file, ...more] = [options.qmp === undefined ? [] : [options.vm ?? []].flat(), options.file ?? []].flat();
		if (file === undefined)
			throw new UsageError('no file is named', {hint: 'As in: quiesce transaction web1 two-disks.yaml'});
		if (more.length > 0) throw new UsageError(`${more.join(' ')}: one file is enough`);
		const name = file === STDIN ? 'stdin' : file;
		const plan = parseTransaction(await read(file), name);
		const vm = options.qmp === undefined ? options.vm : undefined;
		const request = {
			...{...context, ...quiesceWishes(options), plan, dryRun: options.dryRun},
			sockets: await socketsOf({...options, vm}),
		};
		await printAndLog(transact(request), printerOf(context, options.dryRun), context);
		return undefined;
	});
}

async function read(file: string): Promise<string> {
	try {
		if (file !== STDIN) return await fs.readFile(file, 'utf8');
		const parts: Buffer[] = [];
		let bytes = 0;
		for await (const part of process.stdin) {
			parts.push(part as Buffer);
			bytes += (part as Buffer).length;
			if (bytes > MAX_BYTES) throw new UsageError('stdin has more than 4 MiB');
		}
		return Buffer.concat(parts).toString();
	} catch (error) {
		if (error instanceof UsageError) throw error;
		throw new UsageError(`cannot read ${file}: ${asError(error).message}`, {cause: error});
	}
}

/** Lines of JSON; or words on stderr, and at the end the result as JSON on stdout. What is sent has the names of QEMU. */
function printerOf(
	output: {readonly json: boolean; readonly quiet: boolean},
	dryRun: boolean,
): Printer<TransactMessage> {
	if (!output.json) {
		return openPrinter(output, (message, view) => {
			printWords(message, view, dryRun);
		});
	}
	return {
		print: message => {
			if (message.kind !== 'planned') printMessage(message);
			else if (dryRun) printResult(rawJson({message_type: 'summary', dry_run: true, ...shownOf(message)}));
			else printResult(rawJson({message_type: 'planned', ...shownOf(message)}));
		},
		end: () => undefined,
	};
}

function shownOf({vm, prepare, transaction, after, cleanup}: Extract<TransactMessage, {kind: 'planned'}>): object {
	return {vm, prepare, transaction, after, cleanup};
}

function printWords(message: TransactMessage, view: ProgressView, dryRun: boolean): void {
	switch (message.kind) {
		case 'recovered':
		case 'warning':
		case 'cut':
			printCut(message, view);
			break;
		case 'planned': {
			if (dryRun) printResult(rawJson(shownOf(message), process.stdout.isTTY ? 2 : 0));
			const {actions} = message.transaction as {readonly actions: readonly {readonly type?: unknown}[]};
			const types = actions.map(({type}) => String(type)).join(', ');
			view.note(printable(`${message.vm}: ${countOf(actions.length, 'action')}: ${types}`));
			break;
		}
		case 'progress':
			view.show(message.disks.map(disk => ({...disk, name: printable(disk.disk)})));
			break;
		case 'finished': {
			const {vm, jobs, at, consistency, freeze, standstill} = message;
			printResult(toJson({vm, jobs, at, consistency, freeze, standstill}));
		}
	}
}
