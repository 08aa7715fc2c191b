import {mkdir} from 'node:fs/promises';
import {join} from 'node:path';
import {expect, test} from 'vitest';
import {Tally} from '../endurance/tally.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {playHistory} from './history.ts';

/** `npm run histories` plays longer ones, and more. */
test('a chain under writes and kills holds what a model says, and every snapshot what the guest had', async () => {
	const folder = join(temporaryFolder(), 'history');
	await mkdir(folder);
	const [tally, seed, lines] = [new Tally(), Math.floor(Math.random() * 1e6), [] as string[]];
	const log = (line: string): void => {
		lines.push(line);
	};
	await playHistory({seed, snapshots: 3, folder, tally, log}).catch((error: unknown) => {
		tally.find(String(error));
	});
	expect(tally.wrong, `seed ${seed}\n${lines.join('\n')}`).toEqual([]);
}, 120_000);
