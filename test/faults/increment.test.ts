import {test} from 'vitest';
import {faultsNamed} from './harness/faults/all.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {increment} from './scenarios/increment.ts';

test('an increment may be killed, and the next one goes by what is left', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival([increment('fleece')], faultsNamed('kill-tool'));
});
