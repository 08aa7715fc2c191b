import {test} from 'vitest';
import {KILLED} from './harness/faults/killed.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {backup} from './scenarios/backup.ts';

/** Left to `npm run faults`, as what they show is much like the others. */
const LEFT_OUT = ['kill-all', 'stop-tool'];

test('a fleecing backup may be killed where most is at stake', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival(
		[backup('fleece')],
		KILLED.filter(({name}) => !LEFT_OUT.includes(name)),
	);
});
