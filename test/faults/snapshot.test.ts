import {test} from 'vitest';
import {faultsNamed} from './harness/faults/all.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {snapshot} from './scenarios/snapshot.ts';

test('a snapshot may be killed: it is there whole or not at all', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival([snapshot], faultsNamed('kill-tool'));
});
