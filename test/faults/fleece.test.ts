import {test} from 'vitest';
import {FAULTS} from './harness/faults/all.ts';
import {KILLED} from './harness/faults/killed.ts';
import {expectSurvival, SAMPLE_MS} from './sample.ts';
import {backup} from './scenarios/backup.ts';

/** Much like others, and left to `npm run faults`: the tests as a whole are to end within twenty minutes. */
const LEFT_OUT = [
	...['agent-garbage', 'agent-dead', 'clock-back', 'clock-forward', 'iothreads-cut-monitor', 'quit-qemu', 'throttled'],
	...['target-readonly', 'target-eio', 'target-deleted'],
];

test('a fleecing backup survives what happens around it where most is at stake', {timeout: SAMPLE_MS}, async () => {
	await expectSurvival(
		[backup('fleece')],
		FAULTS.filter(fault => !KILLED.includes(fault) && !LEFT_OUT.includes(fault.name)),
	);
});
