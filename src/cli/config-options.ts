import {existsSync} from 'node:fs';
import type {Config} from '../config/config-schema.ts';
import {UsageError} from '../errors.ts';
import {parsePointName, vmNamed} from './repository-options.ts';

/** Read where no other is named. */
const USUAL_FILE = '/etc/quiesce.yaml';

/** Options as yargs has them. */
type Options = Record<string, unknown>;

/** The file that is read where `named` is what `--config` says. Empty where none is to be read. */
export function usualConfigFile(named: string | undefined): string {
	return named ?? process.env['QUIESCE_CONFIG'] ?? USUAL_FILE;
}

/**
 * The config file that `named`, the environment or the usual place has. Undefined if there is none, or if the environment says
 * that none is to be read.
 */
export async function findConfig(named: string | undefined): Promise<Config | undefined> {
	const file = usualConfigFile(named);
	if (file === '' || (file === USUAL_FILE && !existsSync(file))) return undefined;
	// It takes longer to load than many a command to run.
	const {readConfig} = await import('../config/config-file.ts');
	const config = await readConfig(file);
	if (config === undefined) throw new UsageError(`there is no config file ${file}`);
	return config;
}

/** Fills in what the command line leaves open. `isOpen` tells of an option whether it has its default, or none. */
export function fillIn(options: Options, isOpen: (option: string) => boolean, config: Config): void {
	const [command] = options['_'] as (string | number)[];
	const vm = config.vms[vmNamed(options) ?? ''];
	const set = (option: string, value: unknown): void => {
		if (value !== undefined && isOpen(option)) options[option] = value;
	};
	if (command === 'backup') {
		for (const [name, value] of Object.entries({...config.backup, ...vm?.backup})) set(camelCase(name), asTyped(value));
	}
	// A point that is named is to go, whatever the rules.
	if (command === 'prune' && !Object.keys(options).some(option => option.startsWith('keep')) && !namesPoint(options)) {
		for (const [name, value] of Object.entries(config.prune ?? {})) set(camelCase(name), asTyped(value));
	}
}

function namesPoint({point}: Options): boolean {
	return typeof point === 'string' && parsePointName(point).point !== undefined;
}

/** Numbers and durations are read from what was typed. */
function asTyped(value: string | number | readonly string[] | undefined): unknown {
	return typeof value === 'number' ? String(value) : value;
}

function camelCase(name: string): string {
	return name.replaceAll(/_[a-z]/g, letter => letter.charAt(1).toUpperCase());
}
