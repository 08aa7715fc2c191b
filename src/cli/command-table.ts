import type {Argv} from 'yargs';

/** What a file of `commands/` exports: its options, and what it does with them. */
export interface Command {
	readonly build: (yargs: Argv) => Argv;
	readonly run: (options: never) => Promise<void>;
}

/** Each command is loaded when it is the one that was called. */
export type CommandEntry = readonly [usage: string, describe: string, load: () => Promise<Command>];

const SNAPSHOT_COMMANDS: readonly CommandEntry[] = [
	['create [vm..]', 'Take a snapshot: the guest goes on in new images', () => import('./commands/snapshot/create.ts')],
	[
		'list [vm]',
		'List the snapshots of a VM, and what its disks are made of',
		() => import('./commands/snapshot/list.ts'),
	],
	['delete [vm] [snapshot]', 'Delete a snapshot', () => import('./commands/snapshot/delete.ts')],
];

const HOOK_COMMANDS: readonly CommandEntry[] = [
	['list', 'List the hooks there are', () => import('./commands/hooks/list.ts')],
	['show <hook>', 'Print a hook', () => import('./commands/hooks/show.ts')],
	['install [hook..]', 'Put hooks into a guest', () => import('./commands/hooks/install.ts')],
];

const CONFIG_COMMANDS: readonly CommandEntry[] = [
	['check [file]', 'Say what is wrong in a config file', () => import('./commands/config/check.ts')],
];

const COMMANDS: readonly CommandEntry[] = [
	['discover', 'List the running QEMU VMs of this host, and their sockets', () => import('./commands/discover.ts')],
	['inspect [vm]', 'Show the disks, chains, jobs and abilities of a VM', () => import('./commands/inspect.ts')],
	['backup [vm..]', 'Take a point of VMs into a repository', () => import('./commands/backup.ts')],
	['expose [vm]', 'Show the disks of a VM over NBD, also around a command', () => import('./commands/expose.ts')],
	['export [vm]', 'Write the disks of a VM, or a point of it, to one file', () => import('./commands/export.ts')],
	['import <archive>', 'Make a point of an archive', () => import('./commands/import.ts')],
	['list [vm]', 'List the points of a repository', () => import('./commands/list.ts')],
	['show <point>', 'Show all that is known of a point', () => import('./commands/show.ts')],
	['verify [point]', 'Check points against their checksums', () => import('./commands/verify.ts')],
	['prune [point]', 'Remove points that no rule keeps, or one by its name', () => import('./commands/prune.ts')],
	['protect <point>', 'Keep a point whatever the rules say', () => import('./commands/protect.ts')],
	['unprotect <point>', 'Let the rules apply to a point again', () => import('./commands/unprotect.ts')],
	['restore <point>', 'Bring the disks of a point back', () => import('./commands/restore.ts')],
	['serve <source>', 'Serve a point or an archive over NBD', () => import('./commands/serve.ts')],
	['freeze [vm..]', "Freeze a guest's file systems, also around a command", () => import('./commands/freeze.ts')],
	['revert <snapshot>', 'Bring a VM back to a snapshot', () => import('./commands/revert.ts')],
	['commit [vm]', 'Merge overlays of disks into what they lie on', () => import('./commands/commit.ts')],
	['stream [vm]', 'Pull what disks lie on up into them', () => import('./commands/stream.ts')],
	['jobs [vm] [action..]', 'List, watch and change the jobs of a VM', () => import('./commands/jobs.ts')],
	['events [vm..]', 'Print the events of VMs as they come', () => import('./commands/events.ts')],
	[
		'transaction [vm] [file]',
		'Carry out a transaction that a file describes',
		() => import('./commands/transaction.ts'),
	],
	['qmp [vm] [words..]', 'Talk to the monitor of a VM', () => import('./commands/qmp.ts')],
	['recover [vm]', 'Undo what killed runs have left', () => import('./commands/recover.ts')],
	['doctor [vm]', 'Check whether a backup of a VM would go well, and how', () => import('./commands/doctor.ts')],
	['thaw [vm]', "Thaw a guest's file systems", () => import('./commands/thaw.ts')],
	[
		'completion <shell>',
		'Print what lets a shell complete commands and options',
		() => import('./commands/completion.ts'),
	],
	['manual <folder>', 'Write the manual pages', () => import('./commands/manual.ts')],
];

/** Commands that are several. */
export interface CommandFamily {
	readonly name: string;
	readonly describe: string;
	/** What one has to say who names none of them. */
	readonly choose: string;
	readonly commands: readonly CommandEntry[];
}

const FAMILIES: readonly CommandFamily[] = [
	{
		name: 'snapshot',
		describe: 'Take snapshots of a running VM',
		choose: 'say what to do: create, list or delete',
		commands: SNAPSHOT_COMMANDS,
	},
	{
		name: 'hooks',
		describe: 'Quiet applications inside a guest when it is frozen',
		choose: 'say what to do: list, show or install',
		commands: HOOK_COMMANDS,
	},
	{
		name: 'config',
		describe: 'Look after the config file',
		choose: 'say what to do: check',
		commands: CONFIG_COMMANDS,
	},
];

/** All there are: those that are called by their name alone, and those of families. */
export function commandTable(): {
	readonly commands: readonly CommandEntry[];
	readonly families: readonly CommandFamily[];
} {
	return {commands: COMMANDS, families: FAMILIES};
}
