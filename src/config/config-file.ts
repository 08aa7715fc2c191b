import fs from 'node:fs/promises';
import * as v from 'valibot';
import {asError, errnoOf, UsageError} from '../errors.ts';
import {type Config, configSchema} from './config-schema.ts';
import {type DocumentPath, type DocumentProblem, parseYaml, problemsError} from './located-yaml.ts';

/** Far more than a host has VMs. */
const MAX_BYTES = 4 << 20;

/**
 * Reads a config file. Throws `UsageError` with all that is wrong in it, by its lines, and for one that others than root and this user
 * could have written: it names commands to be run. Undefined if there is none.
 */
export async function readConfig(file: string): Promise<Config | undefined> {
	let text: string;
	try {
		await using handle = await fs.open(file, 'r');
		const {mode, uid, size} = await handle.stat();
		const me = process.getuid?.();
		if ((mode & 0o022) !== 0 || (uid !== 0 && uid !== me)) {
			throw new UsageError(`${file} can be written by others, who could have it run commands`, {
				hint: `Make it yours or root's, and: chmod go-w ${file}`,
			});
		}
		if (size > MAX_BYTES) throw new UsageError(`${file} is too large for a config file`);
		text = await handle.readFile('utf8');
	} catch (error) {
		if (error instanceof UsageError) throw error;
		if (errnoOf(error) === 'ENOENT') return undefined;
		throw new UsageError(`cannot read ${file}: ${asError(error).message}`, {cause: error});
	}
	return parseConfig(text, file);
}

/** The same of a text; `file` is what the errors call it. */
export function parseConfig(text: string, file: string): Config {
	const document = parseYaml(text, file);
	// A file with comments alone.
	const checked = v.safeParse(configSchema, document.value ?? {});
	const problems = checked.success ? problemsIn(checked.output) : checked.issues.map(problemOf);
	if (!checked.success || problems.length > 0) {
		throw problemsError(`${file} is not a config file of this program`, file, problems, document);
	}
	return checked.output;
}

function problemOf(issue: v.BaseIssue<unknown>): DocumentProblem {
	const path: DocumentPath = (issue.path ?? []).map(({key}) => (typeof key === 'number' ? key : String(key)));
	if (issue.type === 'strict_object' && issue.expected === 'never') {
		return {path, message: 'there is no such setting'};
	}
	const words =
		issue.type === 'picklist' ? `is not one of ${(issue.expected ?? '').replaceAll(/[()"]/g, '')}` : issue.message;
	return {path, message: words};
}

/** What can only be seen of the whole. */
function problemsIn({groups}: Config): DocumentProblem[] {
	return Object.entries(groups).flatMap(([group, members]) =>
		members.flatMap((member, index) =>
			members.indexOf(member) === index ? [] : [{path: ['groups', group, index], message: `${member} is named twice`}],
		),
	);
}
