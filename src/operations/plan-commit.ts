import fs from 'node:fs/promises';
import path from 'node:path';
import {errnoOf, QuiesceError, UsageError} from '../errors.ts';
import {backingNameOf, chainsOf, type DiskChain, type Layer, layerNamed, type VmChains} from './disk-chains.ts';
import {imagesOver, processesUsing} from './image-users.ts';
import {bytesOf, type MergePlan} from './merge-plan.ts';
import type {DiskWithMedium} from './select-disks.ts';
import {freeBytes, LEAST_BYTES} from './watch-space.ts';

/** Which layers of which disks are to be merged into what lies beneath them. */
export interface CommitWish {
	/** Undefined: all that lie on more than one image. */
	readonly disks?: readonly string[] | undefined;
	/** A file or a node; the active layer by default. Only for one disk. */
	readonly top?: string | undefined;
	/** The one below `top` by default. */
	readonly base?: string | undefined;
}

/**
 * Throws for what cannot go well, before anything is changed: `USAGE` for layers that are not there, `REFUSED` for those
 * that somebody else uses, that are missing, or that would not fit.
 */
export async function planCommits(vm: VmChains, wish: CommitWish): Promise<MergePlan[]> {
	const chains = chainsOf(vm, wish.disks);
	const [only] = chains;
	if ((wish.top !== undefined || wish.base !== undefined) && (chains.length > 1 || !only)) {
		throw new UsageError('--top and --base are layers of one disk', {hint: 'Say of which with --disk.'});
	}
	const plans: MergePlan[] = [];
	for (const chain of chains) plans.push(await planCommit(vm, chain, wish));
	return plans;
}

async function planCommit(vm: VmChains, chain: DiskChain, {top, base}: CommitWish): Promise<MergePlan> {
	const {disk, layers} = chain;
	const from = top === undefined ? 0 : layers.indexOf(layerNamed(chain, top, '--top'));
	const to = base === undefined ? from + 1 : layers.indexOf(layerNamed(chain, base, '--base'));
	const [first, ...others] = layers.slice(from, to);
	const below = layers[to];
	if (!below) throw new QuiesceError('REFUSED', `${disk.name}: nothing lies beneath ${layers[from]?.name ?? ''}`);
	if (!first) throw new UsageError(`${disk.name}: ${below.name} is not beneath ${layers[from]?.name ?? ''}`);
	const going: MergePlan['going'] = [first, ...others];
	const above = layers[from - 1];
	await requireUsable(disk, below);
	await requireNotShared(vm, chain, [...going, below]);
	const grown = requireFits(disk, first, below);
	const bytes = bytesOf(going);
	return {
		disk,
		kind: above ? 'commit' : 'active',
		into: below,
		going,
		namedBy: above,
		below: undefined,
		backingFile: above && backingNameOf(above, below),
		bytes,
		warnings: [...grown, ...(await shortOfSpace(disk, below, bytes))],
	};
}

/** A base whose file is gone lives on in QEMU alone, and what is committed into it would be lost with that. */
async function requireUsable({name}: DiskWithMedium, {file}: Layer): Promise<void> {
	if (file === undefined) return;
	try {
		await fs.access(file, fs.constants.R_OK | fs.constants.W_OK);
	} catch (cause) {
		const why: Record<string, string> = {ENOENT: 'is missing', EROFS: 'is on a read-only file system'};
		const reason = why[errnoOf(cause) ?? ''];
		// Of another user it may be all the same, for QEMU.
		if (reason === undefined) return;
		throw new QuiesceError('REFUSED', `${name}: its base ${file} ${reason}`, {
			cause,
			hint: 'Put it back, or make it writable; or leave the chain as it is.',
		});
	}
}

/** What reads the base through another image, or one of the layers, would have its content changed beneath it. */
async function requireNotShared({qemu, chains}: VmChains, own: DiskChain, layers: readonly Layer[]): Promise<void> {
	const {disk} = own;
	const refused = (layer: string, user: string): QuiesceError =>
		new QuiesceError('REFUSED', `${disk.name}: ${layer} is also used by ${user}`, {
			hint: 'A commit would change what that reads. `quiesce stream` merges the other way, and leaves it as it is.',
		});
	for (const {node, name, file} of layers) {
		const other = chains.find(
			chain =>
				chain.disk.name !== disk.name &&
				chain.layers.some(layer => layer.node.name === node.name || (file !== undefined && layer.file === file)),
		);
		if (other) throw refused(name, `the disk ${other.disk.name} of this VM`);
	}
	const files = layers.flatMap(({file}) => file ?? []);
	const ours = own.layers.flatMap(({file}) => file ?? []);
	const folders = ours.map(file => path.dirname(file));
	// Where the VM's own process is not to be seen, it would be taken for another.
	const processes = qemu ? await processesUsing(files, [qemu.pid]) : new Map<string, string>();
	for (const [file, user] of processes) throw refused(file, user);
	for (const [file, user] of await imagesOver(files, {folders, except: ours})) throw refused(file, user);
}

/** A smaller base is made larger, for good. A larger one is not made smaller: the guest would find its old end. */
function requireFits({name}: DiskWithMedium, top: Layer, base: Layer): string[] {
	const [wanted, there] = [top.node.virtualSize, base.node.virtualSize];
	if (there > wanted) {
		throw new QuiesceError(
			'REFUSED',
			`${name}: the base ${base.name} is larger (${there} bytes) than what lies on it`,
			{
				hint: 'The disk would grow, and show what the base holds there. `quiesce stream` merges the other way.',
			},
		);
	}
	return there === wanted ? [] : [`${name}: the base ${base.name} is enlarged from ${there} to ${wanted} bytes`];
}

async function shortOfSpace({name}: DiskWithMedium, {file}: Layer, bytes: number | undefined): Promise<string[]> {
	if (file === undefined || bytes === undefined) return [];
	const folder = path.dirname(file);
	const free = await freeBytes(folder);
	if (free > bytes + LEAST_BYTES) return [];
	return [`${name}: ${folder} has ${free} bytes free, and the base may grow by ${bytes}`];
}
