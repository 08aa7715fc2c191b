import fs from 'node:fs/promises';
import path from 'node:path';
import type {BlockGraph} from '../block/graph.ts';
import {objectName} from '../block/names.ts';
import {QuiesceError} from '../errors.ts';
import {type HostProcess, sharesMounts} from '../host/processes.ts';
import {canShareWith} from '../images/clone-file.ts';
import type {CopyBy} from '../images/copy-image.ts';
import {systemReason} from '../images/plain-file.ts';
import type {ImageFormat} from '../images/qemu-img.ts';
import type {QmpDebugGraph} from '../qmp/schema.ts';
import type {DiskWithMedium} from './select-disks.ts';
import {whyNoOverlay} from './select-snapshot-disks.ts';
import {fileOn} from './source-images.ts';

/** A disk whose image lies quiet beneath an overlay for a while. */
export interface OverlayDisk {
	readonly disk: DiskWithMedium;
	/** Absolute. */
	readonly base: {readonly file: string; readonly format: ImageFormat};
	readonly copyBy: CopyBy;
}

const SUFFIX = '.qcow2';

export interface OverlayWishes {
	readonly repository: string;
	/** The operator's own program. */
	readonly copyCommand?: readonly string[] | undefined;
}

/** Which images are to be copied, and how. Throws `REFUSED` where that cannot be. Changes nothing. */
export async function findOverlayDisks(
	{repository, copyCommand}: OverlayWishes,
	disks: readonly DiskWithMedium[],
	{
		graph,
		debugGraph,
		qemu,
	}: {readonly graph: BlockGraph; readonly debugGraph: QmpDebugGraph; readonly qemu: HostProcess | undefined},
): Promise<readonly OverlayDisk[]> {
	if (qemu && !(await sharesMounts(qemu.pid))) {
		throw refused('its QEMU has a mount namespace of its own, as in a container, so it cannot open an overlay of ours');
	}
	const found: OverlayDisk[] = [];
	for (const disk of disks) {
		const why = whyNoOverlay(disk, graph, debugGraph);
		if (why) throw refused(`${disk.name}: ${why.reason}`, why.hint);
		const file = await requireImages(disk, qemu?.cwd);
		const isAlone = disk.medium.chain.length === 1;
		if (copyCommand && !isAlone) {
			throw refused(`${disk.name} lies on more than one image, which --copy-command cannot copy as one`);
		}
		const canShare = isAlone && (await canShareWith(file, repository));
		found.push({
			disk,
			base: {file, format: formatOf(disk)},
			copyBy: copyCommand ? 'command' : canShare ? 'reflink' : 'convert',
		});
	}
	return found;
}

/** The file of the overlay that a run gives a disk: beside its image, and hidden. */
export function overlayFile(run: string, {disk, base}: Pick<OverlayDisk, 'disk' | 'base'>): string {
	return path.join(path.dirname(base.file), `.${objectName(run, disk.name, 'overlay')}${SUFFIX}`);
}

/** The node that a file of {@link overlayFile} was made for; undefined for any other file. */
export function nodeOfOverlayFile(name: string): string | undefined {
	return name.startsWith('.') && name.endsWith(SUFFIX) ? name.slice(1, -SUFFIX.length) : undefined;
}

function formatOf({name, medium}: DiskWithMedium): ImageFormat {
	if (medium.format === 'qcow2') return 'qcow2';
	if (medium.format === 'raw' || medium.format === medium.protocol) return 'raw';
	throw refused(`${name} is a ${medium.format} disk, and only qcow2 and raw ones can be copied so`);
}

/** `qemu-img` opens what the images name; QEMU may have been told otherwise. Returns the path of the disk's own. */
async function requireImages({name, medium}: DiskWithMedium, qemuFolder: string | undefined): Promise<string> {
	const files: string[] = [];
	for (const [depth, node] of medium.chain.entries()) {
		const filename = depth === 0 ? medium.filename : node.filename;
		const file = fileOn(filename, qemuFolder);
		const stat = file === undefined ? undefined : await fs.stat(file).catch(refuseFile(name, filename));
		if (file === undefined || !stat?.isFile()) throw refused(`${name}: ${filename} is no file of this host`);
		const real = await fs.realpath(file);
		const above = medium.chain[depth - 1];
		if (above && real !== (await realBacking(files.at(-1) ?? '', above.backingFile))) {
			throw refused(`${name}: ${files.at(-1) ?? ''} names another backing file than ${filename}, on which it lies`);
		}
		files.push(real);
	}
	return files[0] ?? '';
}

async function realBacking(above: string, named: string | undefined): Promise<string | undefined> {
	if (named === undefined) return undefined;
	return fs.realpath(path.resolve(path.dirname(above), named)).catch(() => undefined);
}

function refuseFile(disk: string, filename: string): (error: unknown) => never {
	return error => {
		throw refused(`${disk}: ${filename}: ${systemReason(error)}`);
	};
}

function refused(why: string, hint = 'Use another method, or leave out --method.'): QuiesceError {
	return new QuiesceError('REFUSED', `this VM cannot be backed up by overlay: ${why}`, {hint});
}
