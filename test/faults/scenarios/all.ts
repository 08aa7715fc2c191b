import type {Scenario} from '../harness/scenario.ts';
import {backup} from './backup.ts';
import {commit} from './commit.ts';
import {exported} from './export.ts';
import {exposed} from './expose.ts';
import {increment} from './increment.ts';
import {memory} from './memory.ts';
import {offline} from './offline.ts';
import {overlay} from './overlay.ts';
import {prune} from './prune.ts';
import {restore} from './restore.ts';
import {snapshot} from './snapshot.ts';
import {stream} from './stream.ts';

/** A new operation is a file beside this one, and a line here. */
export const SCENARIOS: readonly Scenario[] = [
	backup('push'),
	backup('fleece'),
	backup('pull'),
	increment('push'),
	increment('fleece'),
	increment('clone'),
	overlay,
	restore,
	offline(),
	prune(),
	snapshot,
	memory,
	commit(),
	stream,
	exported,
	exposed,
];
