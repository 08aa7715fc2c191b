import {randomInt} from 'node:crypto';

/** `npm run test:thorough` tries all of what the other tests take samples of, to be done in time. */
export const isThorough = process.env['QUIESCE_TEST_THOROUGH'] !== undefined;

/** About so many, spread evenly and in their order: other ones each time. All, if the tests are to be thorough. */
export function sampled<Thing>(all: readonly Thing[], count: number): readonly Thing[] {
	const every = isThorough ? 1 : Math.max(1, Math.ceil(all.length / count));
	const from = randomInt(every);
	return all.filter((_, index) => index % every === from);
}
