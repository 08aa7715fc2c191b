import {test} from 'vitest';
import {KILLED} from './harness/faults/killed.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {backup} from './scenarios/backup.ts';

test('a fleecing backup may be killed where most is at stake', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival([backup('fleece')], KILLED);
});
