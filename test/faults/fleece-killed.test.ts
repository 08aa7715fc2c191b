import {test} from 'vitest';
import {faultsNamed} from './harness/faults/all.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {backup} from './scenarios/backup.ts';

test('a fleecing backup may be killed where most is at stake', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival([backup('fleece')], faultsNamed('kill-tool', 'kill-with-guard'));
});
