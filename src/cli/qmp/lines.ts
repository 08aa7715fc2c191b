import readline from 'node:readline';
import type {Readable} from 'node:stream';
import {asError, UsageError} from '../../errors.ts';
import type {QmpConnection} from '../../qmp/connection.ts';
import {QmpCommandError, QmpOutcomeUnknownError} from '../../qmp/errors.ts';
import type {QmpSchema} from '../../qmp/introspection.ts';
import {rawJson} from '../json.ts';
import {printResult} from '../terminal.ts';
import {checked, checkedCommand, type CheckedCommand, splitWords} from './command-line.ts';

interface Line extends CheckedCommand {
	readonly id: unknown;
}

/**
 * Carries out what comes in lines, one after the other: `command key=value…`, or what QMP itself takes, as
 * `{"execute": …, "arguments": …}`. Prints an answer for each line, in JSON as QMP has it, and events as they come. Returns how many
 * lines failed.
 */
export async function runLines(qmp: QmpConnection, schema: QmpSchema, input: Readable): Promise<number> {
	const events = qmp.events$.subscribe({
		next: event => {
			printResult(rawJson(event));
		},
		// Told to whoever waits for an answer.
		error: () => undefined,
	});
	let failed = 0;
	try {
		for await (const line of readline.createInterface({input, crlfDelay: Infinity})) {
			if (line.trim() === '' || line.trimStart().startsWith('#')) continue;
			if (!(await runLine(qmp, schema, line))) failed++;
		}
	} finally {
		events.unsubscribe();
	}
	return failed;
}

async function runLine(qmp: QmpConnection, schema: QmpSchema, text: string): Promise<boolean> {
	let id: unknown;
	try {
		const line = parseLine(schema, text);
		id = line.id;
		printResult(rawJson({return: await qmp.executeAny(line.command, line.args), id}));
		return true;
	} catch (error) {
		// Nothing that follows could be sent.
		if (error instanceof QmpOutcomeUnknownError) throw error;
		const errorClass = error instanceof QmpCommandError ? error.errorClass : 'NotSent';
		printResult(rawJson({error: {class: errorClass, desc: asError(error).message}, id}));
		return false;
	}
}

function parseLine(schema: QmpSchema, text: string): Line {
	if (!text.trimStart().startsWith('{')) return {...checkedCommand(schema, splitWords(text)), id: undefined};
	let value: unknown;
	try {
		value = JSON.parse(text);
	} catch (cause) {
		throw new UsageError(`not JSON: ${text}`, {cause});
	}
	const {execute, arguments: args = {}, id, ...others} = value as Readonly<Record<string, unknown>>;
	const [other] = Object.keys(others);
	if (typeof execute !== 'string' || other !== undefined) {
		throw new UsageError(
			other === undefined ? 'execute is missing' : `there is no ${other} here, but execute, arguments and id`,
		);
	}
	return {...checked(schema, execute, args as Record<string, unknown>), id};
}
