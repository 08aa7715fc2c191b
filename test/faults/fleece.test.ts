import {test} from 'vitest';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {backup} from './scenarios/backup.ts';

test('a fleecing backup survives every fault where most is at stake', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival(backup('fleece'));
});
