import fs from 'node:fs/promises';
import path from 'node:path';
import type {Argv} from 'yargs';
import {fileError} from '../../repository/durable-files.ts';
import {programVersion} from '../../version.ts';
import {describeProgram} from '../definitions/describe.ts';
import {manualPages} from '../definitions/manual-page.ts';
import {toJson} from '../json.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';

interface Options extends GlobalOptions {
	readonly folder: string;
}

export function build(yargs: Argv): Argv {
	return yargs
		.usage('$0 manual FOLDER\n\nWrites the manual pages, quiesce(1) and one for each command, into a folder.')
		.positional('folder', {type: 'string', demandOption: true, describe: 'Where they go; it is made'})
		.example('$0 manual /usr/local/share/man/man1', 'then `man quiesce-backup`');
}

export function run({folder, ...options}: Options): Promise<void> {
	return runCommand(options, async ({json}) => {
		const pages = manualPages(await describeProgram(), programVersion());
		const files = pages.map(page => path.join(folder, page.file));
		try {
			await fs.mkdir(folder, {recursive: true});
			for (const [index, file] of files.entries()) await fs.writeFile(file, pages[index]?.text ?? '');
		} catch (error) {
			throw fileError('write', folder, error);
		}
		printResult(json ? toJson({messageType: 'summary', files}) : files.join('\n'));
		return undefined;
	});
}
