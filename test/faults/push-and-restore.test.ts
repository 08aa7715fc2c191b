import {test} from 'vitest';
import {faultsNamed} from './harness/faults/all.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {backup} from './scenarios/backup.ts';
import {restore} from './scenarios/restore.ts';

test('a push backup and a restore survive faults where most is at stake', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival([backup('push'), restore], faultsNamed('kill-tool', 'target-full'));
});
