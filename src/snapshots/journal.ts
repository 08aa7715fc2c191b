import * as v from 'valibot';
import {parseDocument} from '../repository/document.ts';
import {time} from '../repository/manifest.ts';
import {type Owner, ownerMembers} from '../repository/owner.ts';
import {planMembers, type SnapshotManifest} from './manifest.ts';

const JOURNAL_FORMAT = 1;

/** What is known of a snapshot before its cut. */
export type SnapshotPlan = Omit<
	SnapshotManifest,
	'format' | 'cutAt' | 'finishedAt' | 'consistency' | 'freeze' | 'standstill' | 'memory' | 'vmState'
>;

/**
 * run.json in the folder of an unfinished snapshot: whose it is, and which files and nodes were to be made. From it a later
 * run can finish what had come as far as the cut, and undo what had not.
 */
export interface Journal extends Owner {
	readonly format: typeof JOURNAL_FORMAT;
	readonly begunAt: string;
	readonly plan: SnapshotPlan;
	/** With `memory` what is unfinished is more than the documents. */
	readonly wants: 'disks' | 'memory';
	/**
	 * It is being taken back, although it has been cut: its bases may hold what was written since, so it must not appear any
	 * more.
	 */
	readonly undoing: boolean;
}

const schema: v.GenericSchema<unknown, Journal> = v.looseObject({
	format: v.literal(JOURNAL_FORMAT),
	...ownerMembers,
	begunAt: time,
	plan: v.looseObject(planMembers),
	wants: v.picklist(['disks', 'memory']),
	undoing: v.optional(v.boolean(), false),
});

export function newJournal(owner: Owner, plan: SnapshotPlan, wants: Journal['wants'], now: Date): Journal {
	return {format: JOURNAL_FORMAT, ...owner, begunAt: now.toISOString(), plan, wants, undoing: false};
}

/** Throws `DAMAGED`; `what` names the document in the message. */
export function parseJournal(text: string, what: string): Journal {
	return parseDocument(schema, JOURNAL_FORMAT, text, what);
}
