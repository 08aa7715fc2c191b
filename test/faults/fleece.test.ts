import {test} from 'vitest';
import {faultsNamed} from './harness/faults/all.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {backup} from './scenarios/backup.ts';

/** The others, and other operations, are left to `npm run faults`: the tests as a whole are to end within twenty minutes. */
const FAULTS = faultsNamed('cut-monitor', 'power-cut', 'target-full');

test('a fleecing backup survives what happens around it where most is at stake', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival([backup('fleece')], FAULTS);
});
