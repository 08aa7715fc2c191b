import type {SocketAddress} from '../../config/address.ts';
import type {NamedTls} from '../../nbd/uri.ts';
import type {CutRecord} from '../backup-messages.ts';
import type {CopyRequest} from '../copy-task.ts';
import type {Command, CommandRequest} from '../freeze.ts';
import type {DiskSelection} from '../select-disks.ts';
import type {VmRequest} from '../with-vm.ts';

export interface ExposeRequest extends CopyRequest, VmRequest, DiskSelection, Pick<CommandRequest, 'commandOutput'> {
	/** Where the exports are to be; undefined for a Unix socket that only this user can open. */
	readonly listen?: SocketAddress | undefined;
	readonly tls?: NamedTls | undefined;
	/** The point since which changes are shown, by its id or the unique beginning of it, or what was exposed by that name. */
	readonly since?: string | undefined;
	/** What the next exposure can name in `since`, if the command succeeds. Replaces what `since` names, if that is no point. */
	readonly commit?: string | undefined;
	/** Of both; undefined if there is neither. */
	readonly repository?: string | undefined;
	/** Where old data is kept that the guest overwrites, instead of beside each disk's image. Local. */
	readonly scratch?: string | undefined;
	/** What runs while the disks are exposed; undefined to wait for the signal, which then is no failure. */
	readonly command?: Command | undefined;
	/** After so long the exposure ends, as a failure. */
	readonly deadlineMs: number;
}

export interface ExposedDisk {
	readonly disk: string;
	readonly uri: string;
	readonly sizeBytes: number;
	/** Metadata contexts. */
	readonly contexts: readonly string[];
	/** The one of them that says what has changed since the point; null where all may have. */
	readonly changes: string | null;
	readonly changedBytes: number | null;
	/** Why there is none, though it was asked for. */
	readonly reason: string | null;
}

export type ExposeMessage =
	| {readonly kind: 'recovered'; readonly text: string}
	| {readonly kind: 'warning'; readonly text: string}
	| ({readonly kind: 'cut'} & CutRecord)
	/** The disks can be read from now on. */
	| {
			readonly kind: 'exposed';
			readonly vm: string;
			readonly since: string | null;
			readonly exports: readonly ExposedDisk[];
	  }
	/** What was exposed is the base of a later exposure. */
	| {readonly kind: 'committed'; readonly vm: string; readonly name: string}
	/** Nobody reads any more, and nothing is left in the VM. Null where no command was to run. */
	| {readonly kind: 'finished'; readonly vm: string; readonly exitStatus: number | null};
