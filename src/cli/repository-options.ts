import type {Argv} from 'yargs';
import {UsageError} from '../errors.ts';

export interface RepositoryOption {
	readonly repository?: string | undefined;
}

export function repositoryOption<Options>(yargs: Argv<Options>): Argv<Options & RepositoryOption> {
	return yargs.option('repository', {
		alias: 'r',
		type: 'string',
		describe: "The repository's folder; else $QUIESCE_REPOSITORY",
	});
}

export function repositoryOf({repository}: RepositoryOption): string {
	const folder = repository ?? process.env['QUIESCE_REPOSITORY'];
	if (folder === undefined || folder === '') {
		throw new UsageError('no repository is named', {hint: 'Name its folder with -r, or in QUIESCE_REPOSITORY.'});
	}
	return folder;
}

/** For what can do without. */
export function repositoryIfAny({repository}: RepositoryOption): string | undefined {
	return (repository ?? process.env['QUIESCE_REPOSITORY']) || undefined;
}

/** Reads `VM` or `VM@POINT`. A VM's name may hold an `@` too: the last one counts. */
export function parsePointName(text: string): {readonly vm: string; readonly point: string | undefined} {
	const at = text.lastIndexOf('@');
	const [vm, point] = at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
	if (vm === '' || point === '') throw new UsageError(`'${text}' is not a VM or VM@POINT`);
	return {vm, point};
}
