import path from 'node:path';
import type {SocketAddress} from '../config/address.ts';
import {QuiesceError, UsageError} from '../errors.ts';
import {type CommandLineOption, parseCommandLine} from '../host/command-line.ts';
import {commandLineFacts} from '../host/command-line-facts.ts';
import {usersOf} from '../host/image-users.ts';
import type {Machine} from '../repository/machine.ts';
import type {OverlayFile} from '../snapshots/overlay-file.ts';
import {listSnapshots, type Snapshot} from '../snapshots/snapshots.ts';
import {requireSoundBases, requireSoundFiles} from '../snapshots/sound-snapshot.ts';
import {bootCommand} from './boot-command.ts';
import {overlayPath} from './overlay-path.ts';
import type {RevertRequest} from './revert-messages.ts';

const DEFAULT_TEMPLATE = '{stem}.{name}-{run}.qcow2';
const CLUSTER_BYTES = 64 * 1024;

export interface RevertPlan {
	readonly snapshot: Snapshot;
	readonly overlays: readonly (OverlayFile & {readonly disk: string})[];
	readonly argv: readonly string[];
	readonly notes: readonly string[];
	/** The monitor that the new VM listens on; undefined where it has none that can be told. */
	readonly monitor: SocketAddress | undefined;
}

/** Looks at everything before anything is made, and throws for what cannot go well. Changes nothing. */
export async function planRevert(request: RevertRequest, run: string): Promise<RevertPlan> {
	const {folder, name} = request.snapshot;
	const known = await listSnapshots(folder);
	const snapshot = known.find(candidate => candidate.name === name);
	if (!snapshot) {
		throw new UsageError(`there is no snapshot ${name} in ${folder}`, {
			hint: '`quiesce snapshot list` shows those of a VM; --folder says where they are noted.',
		});
	}
	if (snapshot.state === 'damaged') throw new QuiesceError('DAMAGED', `the snapshot ${name}: ${snapshot.reason}`);
	const {manifest} = snapshot;
	if (manifest.kind === 'internal') {
		throw new UsageError(`${name} is an internal snapshot, which is brought back inside the images`, {
			hint: 'Leave --folder out; and while the VM is off, name its images with --image, or write --off.',
		});
	}
	const machine = await requireSoundFiles(snapshot, request.signal);
	await requireSoundBases(snapshot);
	await requireUnused(snapshot);
	const readable = known.flatMap(other => (other.state === 'readable' ? [other] : []));
	const template = (request.overlayTemplate ?? DEFAULT_TEMPLATE).replaceAll('{run}', run);
	const overlays = manifest.disks.map(disk => ({
		disk: disk.name,
		file: overlayPath(template, {
			...{base: disk.base.file, snapshot: name, disk: disk.name, vm: manifest.vm},
			known: readable,
		}),
		base: disk.base,
		sizeBytes: disk.sizeBytes,
		clusterBytes: CLUSTER_BYTES,
	}));
	const command = revertCommand(machine, overlays, manifest.memory !== null);
	const told = commandLineFacts(parseCommandLine(command.argv.slice(1))).monitors.map(({endpoint}) => endpoint);
	const usable = told.find((endpoint): endpoint is SocketAddress => 'unix' in endpoint || 'host' in endpoint);
	const monitor = request.monitor ?? (usable && 'unix' in usable ? {unix: path.resolve(usable.unix)} : usable);
	if (!monitor && (request.start || manifest.memory)) {
		throw new QuiesceError('REFUSED', `the command line of ${manifest.vm} has no QMP monitor on a socket`, {
			hint: manifest.memory
				? 'Start the VM with one more -qmp option than is printed, and name it with --qmp.'
				: 'Leave --start out, and start it yourself.',
		});
	}
	return {snapshot, overlays, ...command, monitor};
}

/** What starts the VM from the overlays; with a memory, so that it waits for that and then for `cont`. Pure. */
function revertCommand(
	machine: Machine,
	overlays: readonly {readonly disk: string; readonly file: string}[],
	memory: boolean,
): Pick<RevertPlan, 'argv' | 'notes'> {
	const {argv, notes} = bootCommand(
		machine,
		overlays.map(({disk, file}) => ({disk, path: file, format: 'qcow2'})),
	);
	if (!memory) return {argv, notes};
	if (machine.commandLine === null) {
		throw new QuiesceError(
			'REFUSED',
			`the command line of ${machine.name} was not recorded, and its memory fits no other`,
			{
				hint: 'The disks alone can be brought back: take them from the bases that snapshot.json names.',
			},
		);
	}
	const isStopped = ({flag}: CommandLineOption): boolean => flag === '-S' || flag === '--S';
	const stopped = parseCommandLine(argv.slice(1)).some(isStopped);
	return {
		argv: [...argv, ...(stopped ? [] : ['-S']), '-incoming', 'defer'],
		notes: notes.filter(note => !note.startsWith('-S ')),
	};
}

/** A base must not change while something lies on it, and a VM that still writes to an overlay is not to be doubled. */
async function requireUnused({name, manifest}: Snapshot): Promise<void> {
	const files = manifest.disks.flatMap(({base, overlay}) => [base.file, ...(overlay ? [overlay.file] : [])]);
	const [user] = await usersOf(files);
	if (!user) return;
	const who = user.pid === undefined ? 'a QEMU of another user' : `process ${user.pid} (${user.name ?? ''})`;
	throw new QuiesceError('REFUSED', `${who} has ${user.file} open, so ${name} cannot be brought back now`, {
		hint: `Stop ${manifest.vm} first: it would run twice.`,
	});
}
