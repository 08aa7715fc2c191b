import {fileURLToPath} from 'node:url';
import {defineConfig} from 'vitest/config';
import {SlowestFirst} from './test/slowest-first.ts';

export default defineConfig({
	test: {
		include: ['test/**/*.test.ts'],
		// Real QEMUs under emulation on two cores: generous, because a test that hangs is found by its own deadlines.
		testTimeout: 120_000,
		hookTimeout: 180_000,
		maxWorkers: 2,
		// The program is started some thousand times, and half of what that takes is to compile it.
		env: {NODE_COMPILE_CACHE: fileURLToPath(new URL('.cache/node', import.meta.url))},
		sequence: {sequencer: SlowestFirst},
	},
});
