import fs from 'node:fs/promises';
import {fileURLToPath} from 'node:url';
import {UsageError} from '../errors.ts';

/** A script that quiets one kind of application inside the guest, for the time of a freeze. */
export interface FreezeHook {
	/** Of the script, in `fsfreeze-hook.d`. */
	readonly name: string;
	readonly application: string;
	/** What it does. */
	readonly method: string;
}

export const FREEZE_HOOKS: readonly FreezeHook[] = [
	{
		name: 'mysql',
		application: 'MariaDB, MySQL',
		method: 'one session holds the backup lock from freeze to thaw, no longer than its deadline',
	},
	{
		name: 'postgresql',
		application: 'PostgreSQL',
		method: 'a checkpoint; it starts from frozen file systems as after a power cut',
	},
	{
		name: 'redis',
		application: 'Redis, Valkey',
		method: 'writes pause, and are in the append-only file or in a new dump',
	},
	{
		name: 'mongodb',
		application: 'MongoDB',
		method: 'fsyncLock from freeze to thaw, which a process undoes at a deadline',
	},
	{name: 'template', application: 'any other', method: 'to be filled in: refuses each freeze until it is'},
];

/** What the agent calls: it calls the others. */
export const DISPATCHER = 'fsfreeze-hook';

export const SETTINGS = 'fsfreeze-hook.conf';

/** What has the agent call it. */
export const AGENT_SETTINGS = 'qemu-ga.conf';

/** What {@link readScript} has. */
export const SCRIPTS: readonly string[] = [...FREEZE_HOOKS.map(({name}) => name), DISPATCHER, SETTINGS, AGENT_SETTINGS];

/** Throws `UsageError` for a name of none. */
export function findHook(name: string): FreezeHook {
	const hook = FREEZE_HOOKS.find(one => one.name === name);
	if (hook) return hook;
	throw new UsageError(`there is no freeze hook called '${name}'`, {
		hint: `There are ${FREEZE_HOOKS.map(one => one.name).join(', ')}.`,
	});
}

/** The text of one of {@link SCRIPTS}. */
export function readScript(name: string): Promise<string> {
	return fs.readFile(fileURLToPath(new URL(`kit/${name}`, import.meta.url)), 'utf8');
}
