import fs from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import {errnoOf} from '../errors.ts';
import {mergedImages} from '../snapshots/retell.ts';
import {isAlive, runFolders} from './run.ts';

const NAME = 'chain.json';

const mergeRecord = v.strictObject({
	disk: v.string(),
	/** The node that stands for the layers once they are merged. */
	into: v.string(),
	/** What is to be flushed before a file goes: the image of that, and the one that names it. */
	flushed: v.array(v.string()),
	/** The format nodes of the layers, and all nodes that are to go. */
	layers: v.array(v.string()),
	nodes: v.array(v.string()),
	/** The layers' files, the top first, with their inodes; those that are to be removed. */
	files: v.array(v.strictObject({file: v.string(), inode: v.number()})),
	/** Of a VM that is off: it has come to its end, and what is left is to remove the files. */
	merged: v.optional(v.boolean(), false),
	/** What snapshots are to be told; null where images are in no files. */
	images: v.nullable(mergedImages),
});

const chainJournal = v.strictObject({
	vm: v.string(),
	/** The process whose chains these are: another may have nodes of the same names. */
	qemu: v.nullable(v.strictObject({pid: v.number(), startTicks: v.number()})),
	merges: v.array(mergeRecord),
});

export type MergeRecord = v.InferOutput<typeof mergeRecord>;

/**
 * What a run is about to merge, kept in its folder: from the VM's chains a later run can tell how far it came, and remove
 * what is left over. It goes with the run.
 */
export type ChainJournal = v.InferOutput<typeof chainJournal>;

export async function writeJournal(folder: string, journal: ChainJournal): Promise<void> {
	const fresh = path.join(folder, `.${NAME}`);
	await fs.writeFile(fresh, JSON.stringify(journal), {mode: 0o600});
	await fs.rename(fresh, path.join(folder, NAME));
}

/** Undefined where the run has none, or none that can be read. */
export async function readJournal(folder: string): Promise<ChainJournal | undefined> {
	try {
		const parsed = v.safeParse(chainJournal, JSON.parse(await fs.readFile(path.join(folder, NAME), 'utf8')));
		return parsed.success ? parsed.output : undefined;
	} catch (error) {
		if (error instanceof SyntaxError || errnoOf(error) === 'ENOENT') return undefined;
		throw error;
	}
}

/** What runs that have died were merging of the VM with this lock key. */
export async function journalsOfDead(
	lockKey: string,
): Promise<{readonly run: string; readonly folder: string; readonly journal: ChainJournal}[]> {
	const left = [];
	for (const {run, folder} of await runFolders()) {
		const journal = await readJournal(folder);
		if (journal?.vm === lockKey && !(await isAlive(run))) left.push({run, folder, journal});
	}
	return left;
}

/** In the journal of a run that is at it. */
export async function noteMerged(folder: string, disk: string): Promise<void> {
	const journal = await readJournal(folder);
	if (!journal) return;
	const merges = journal.merges.map(merge => (merge.disk === disk ? {...merge, merged: true} : merge));
	await writeJournal(folder, {...journal, merges});
}

export async function clearJournal(folder: string): Promise<void> {
	await fs.rm(path.join(folder, NAME), {force: true});
}
