import type {Argv} from 'yargs';
import type {Config} from '../config/config-schema.ts';
import {UsageError} from '../errors.ts';

export interface RepositoryOption {
	readonly repository?: string | undefined;
	/** The config file, if there is one. */
	readonly config?: Config | undefined;
}

/** With the VM that is named, by itself or with its point. */
interface NamedOptions extends RepositoryOption {
	readonly vm?: string | readonly string[] | undefined;
	readonly point?: string | undefined;
}

export function repositoryOption<Options>(yargs: Argv<Options>): Argv<Options & RepositoryOption> {
	return yargs.option('repository', {
		alias: 'r',
		type: 'string',
		describe: "The repository's folder; else $QUIESCE_REPOSITORY, else that of the config file",
	});
}

export function repositoryOf(options: NamedOptions): string {
	const folder = repositoryIfAny(options);
	if (folder === undefined) {
		throw new UsageError('no repository is named', {
			hint: 'Name its folder with -r, in QUIESCE_REPOSITORY or in the config file.',
		});
	}
	return folder;
}

/** For what can do without. */
export function repositoryIfAny({repository, config, ...named}: NamedOptions): string | undefined {
	const given = repository ?? process.env['QUIESCE_REPOSITORY'];
	if (given) return given;
	return config?.vms[vmNamed(named) ?? '']?.repository ?? config?.repository;
}

/** The one VM that the command is for. */
export function vmNamed({vm, point}: Pick<NamedOptions, 'vm' | 'point'>): string | undefined {
	if (typeof vm === 'string') return vm;
	if (vm !== undefined) return vm.length === 1 ? vm[0] : undefined;
	return point === undefined || point === '' ? undefined : parsePointName(point).vm;
}

/** Reads `VM` or `VM@POINT`. A VM's name may hold an `@` too: the last one counts. */
export function parsePointName(text: string): {readonly vm: string; readonly point: string | undefined} {
	const at = text.lastIndexOf('@');
	const [vm, point] = at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
	if (vm === '' || point === '') throw new UsageError(`'${text}' is not a VM or VM@POINT`);
	return {vm, point};
}
