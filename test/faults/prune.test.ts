import {test} from 'vitest';
import {faultsNamed} from './harness/faults/all.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {prune} from './scenarios/prune.ts';

test('a prune survives faults where most is at stake', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival([prune()], faultsNamed('kill-commit'));
});
