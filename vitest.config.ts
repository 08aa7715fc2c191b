import {defineConfig} from 'vitest/config';
import {SlowestFirst} from './test/slowest-first.ts';

export default defineConfig({
	test: {
		include: ['test/**/*.test.ts'],
		// Real QEMUs under emulation on two cores: generous, because a test that hangs is found by its own deadlines.
		testTimeout: 120_000,
		hookTimeout: 180_000,
		maxWorkers: 2,
		sequence: {sequencer: SlowestFirst},
	},
});
