import fs from 'node:fs/promises';
import path from 'node:path';
import {parseAddress} from '../config/address.ts';
import {readConfig} from '../config/config-file.ts';
import type {Config} from '../config/config-schema.ts';
import {UsageError} from '../errors.ts';

/** Something that a config file names, and that is not there now. */
export interface MissingThing {
	/** Where it is named: `vms.web1.qmp`. */
	readonly setting: string;
	readonly words: string;
}

export interface CheckedConfig {
	readonly vms: number;
	readonly groups: number;
	readonly missing: readonly MissingThing[];
}

/** Throws `UsageError` with all that is wrong in the file, by its lines. Connects to nothing. */
export async function checkConfig(file: string): Promise<CheckedConfig> {
	const config = await readConfig(file);
	if (!config) throw new UsageError(`there is no config file ${file}`);
	const missing: MissingThing[] = [];
	for (const [setting, thing] of thingsNamedIn(config)) {
		const isThere = await fs.access(thing).then(
			() => true,
			() => false,
		);
		if (!isThere) missing.push({setting, words: `${thing} is not there, or not for this user`});
	}
	return {vms: Object.keys(config.vms).length, groups: Object.keys(config.groups).length, missing};
}

function thingsNamedIn({repository, backup, vms, hooks, metrics}: Config): [setting: string, file: string][] {
	const named: [string, string | undefined][] = [
		['repository', repository],
		['backup.scratch', backup?.scratch],
		['metrics', metrics],
		...Object.entries(vms).flatMap(([name, vm]): [string, string | undefined][] => [
			[`vms.${name}.qmp`, socketFile(vm?.qmp)],
			[`vms.${name}.agent`, socketFile(vm?.agent)],
			[`vms.${name}.repository`, vm?.repository],
			[`vms.${name}.backup.scratch`, vm?.backup?.scratch],
		]),
		...Object.entries(hooks).flatMap(([moment, actions = []]) =>
			actions.map((action, index): [string, string | undefined] => {
				const setting = `hooks.${moment}[${index}]`;
				if ('command' in action)
					return [`${setting}.command`, path.isAbsolute(action.command[0] ?? '') ? action.command[0] : undefined];
				return [`${setting}.ping_file`, 'ping_file' in action ? action.ping_file : undefined];
			}),
		),
	];
	return named.filter((one): one is [string, string] => one[1] !== undefined);
}

function socketFile(address: string | undefined): string | undefined {
	if (address === undefined) return undefined;
	const parsed = parseAddress(address);
	return 'unix' in parsed ? parsed.unix : undefined;
}
