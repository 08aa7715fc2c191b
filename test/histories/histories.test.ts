import {mkdir} from 'node:fs/promises';
import {join} from 'node:path';
import {expect, test} from 'vitest';
import {Tally} from '../endurance/tally.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {playHistory} from './history.ts';

/** `npm run histories` plays longer ones, and more, in which runs are killed. */
test('a chain under writes holds what a model says, and every snapshot what the guest had', async () => {
	const folder = join(temporaryFolder(), 'history');
	await mkdir(folder);
	const [tally, seed, lines] = [new Tally(), Math.floor(Math.random() * 1e6), [] as string[]];
	const log = (line: string): void => {
		lines.push(line);
	};
	await playHistory({seed, snapshots: 3, between: 2, kills: false, folder, tally, log}).catch((error: unknown) => {
		tally.find(String(error));
	});
	expect(tally.wrong, `seed ${seed}\n${lines.join('\n')}`).toEqual([]);
}, 300_000);
