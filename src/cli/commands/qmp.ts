import type {Argv} from 'yargs';
import {UsageError} from '../../errors.ts';
import {declareTypes} from '../../qmp/declarations.ts';
import {QmpSchema} from '../../qmp/introspection.ts';
import {openFree} from '../../qmp/open-free.ts';
import type {QmpConnection} from '../../qmp/connection.ts';
import {exitCodeOf} from '../exit-codes.ts';
import {rawJson} from '../json.ts';
import {checkedCommand} from '../qmp/command-line.ts';
import {runLines} from '../qmp/lines.ts';
import {runShell} from '../qmp/shell.ts';
import {parseEventPattern, waitFor} from '../qmp/wait-for.ts';
import {parseDuration} from '../quantities.ts';
import {type CommandContext, type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';
import {allSocketsOf, type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions {
	readonly words?: readonly string[];
	readonly wait?: readonly string[];
	readonly timeout?: string;
}

export function build(yargs: Argv): Argv {
	return vmOptions(yargs)
		.usage(
			'$0 qmp VM [COMMAND [KEY=VALUE…]]\n$0 qmp VM types\n\nSends a command to the monitor of a VM, and prints what it returns. ' +
				'What QEMU would refuse by its own schema is not sent. Without a command: a shell on a terminal, with completion; else ' +
				'commands from stdin, a line each, and an answer for each line. `types` prints TypeScript for all commands and events.',
		)
		.positional('words', {type: 'string', array: true, describe: 'A command, and its arguments; or all of them as {…}'})
		.option('wait', {
			type: 'string',
			array: true,
			nargs: 1,
			describe: 'Then wait for this event, EVENT[,KEY=VALUE…], and print it (may be repeated: for the first of them)',
			group: 'Monitor:',
		})
		.option('timeout', {type: 'string', describe: 'Wait no longer than that, such as 30s', group: 'Monitor:'})
		.example('$0 qmp web1 query-status', '')
		.example('$0 qmp web1 blockdev-add driver=qcow2 node-name=spare file.driver=file file.filename=/vm/spare.qcow2', '')
		.example('$0 qmp web1 system_powerdown --wait SHUTDOWN --timeout 2m', '')
		.example('$0 qmp web1 types >qemu.d.ts', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		// With --qmp there is no VM, so what stands there is the command.
		const words = [...(options.qmp === undefined ? [] : [options.vm ?? []].flat()), ...(options.words ?? [])];
		const vm = options.qmp === undefined ? options.vm : undefined;
		const [first, ...others] = await allSocketsOf({...options, vm});
		const {signal, transcript} = context;
		const record = transcript?.of('qmp');
		const {qmp} = await openFree([first.qmp, ...others.map(other => other.qmp)], {signal, record});
		try {
			return await converse(qmp, {...options, words}, context);
		} finally {
			await qmp.close();
		}
	});
}

async function converse(
	qmp: QmpConnection,
	{words = [], wait = [], timeout}: Options,
	{signal}: CommandContext,
): Promise<number | undefined> {
	const schema = await QmpSchema.read(qmp);
	if (words[0] === 'types') {
		if (words.length > 1) throw new UsageError('types takes nothing besides');
		const {major, minor, micro} = qmp.version.qemu;
		printResult(declareTypes(schema, `${major}.${minor}.${micro}`));
		return undefined;
	}
	const patterns = wait.map(text => parseEventPattern(text, schema));
	const timeoutMs = timeout === undefined ? undefined : parseDuration(timeout, '--timeout');
	const awaited = patterns.length > 0 ? waitFor(qmp.events$, patterns, {signal, timeoutMs}) : undefined;
	// What it fails with is thrown below.
	awaited?.catch(() => undefined);
	let failed = 0;
	if (words.length > 0) {
		const {command, args} = checkedCommand(schema, words);
		printResult(forReader(await qmp.executeAny(command, args)));
	} else if (awaited === undefined) {
		if (process.stdin.isTTY) await runShell(qmp, schema);
		else failed = await runLines(qmp, schema, process.stdin);
	}
	if (awaited) printResult(forReader(await awaited));
	return failed > 0 ? exitCodeOf('REFUSED') : undefined;
}

function forReader(value: unknown): string {
	return rawJson(value, process.stdout.isTTY ? 2 : 0);
}
