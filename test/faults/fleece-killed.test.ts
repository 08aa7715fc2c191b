import {test} from 'vitest';
import {faultsNamed} from './harness/faults/all.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {backup} from './scenarios/backup.ts';

/** The program alone is killed at an increment, which goes through the same steps. */
test('a fleecing backup may be killed with its guard where most is at stake', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival([backup('fleece')], faultsNamed('kill-with-guard'));
});
