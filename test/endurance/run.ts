/**
 * `npm run endurance`: takes points of a guest that never stops writing, disturbs the runs, and compares every byte of
 * every point with what the guest had written. Needs root, for file systems of its own.
 *
 *   --points N   how many points (50)
 *   --rate N     the guest's writes in a second (1200)
 *   --seed N     the same choices again
 */
import {mkdir, mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {parseArgs} from 'node:util';
import {output} from '../guest/command.ts';
import {killAll, ourProcesses} from '../faults/harness/processes.ts';
import {make, someOptions} from './attempt.ts';
import {judgeEnd} from './end.ts';
import {INTERLUDES} from './interludes.ts';
import {Ledger} from './ledger.ts';
import {someMoment} from './moments.ts';
import {Deck, Random} from './random.ts';
import {MemoryDisk, RepositoryDisk} from './file-systems.ts';
import type {Stage} from './stage.ts';
import {STRIKES} from './strikes.ts';
import {Tally} from './tally.ts';
import {WritingVm} from './vm.ts';

/** How long the program is at work, about: moments are chosen within it. */
const USUAL_MS = 6_000;
/** So long the guest may write between two runs. */
const PAUSE_MS = 3_000;

const {values} = parseArgs({
	options: {
		points: {type: 'string', default: '50'},
		rate: {type: 'string', default: '1200'},
		seed: {type: 'string', default: String(Math.floor(Math.random() * 1e6))},
	},
});
const [points, rate, seed] = [Number(values.points), Number(values.rate), Number(values.seed)];

const folder = await mkdtemp(join(tmpdir(), 'quiesce-endurance-'));
const tally = new Tally();
const runtimeDir = join(folder, 'runtime');
try {
	const random = new Random(seed);
	await using disk = await RepositoryDisk.mount(join(folder, 'disk'));
	await using memory = await MemoryDisk.mount(join(folder, 'images'));
	await using vm = await WritingVm.start(memory.folder, `endurance-${folder.slice(-6)}`, rate);
	const [repository, second] = [join(disk.folder, 'repository'), join(disk.folder, 'second')];
	for (const made of [repository, second]) await mkdir(made, {mode: 0o700});
	const stage: Stage = {folder, runtimeDir, random, vm, disk, repository, second};
	const ledger = new Ledger(stage, tally);
	const interludes = new Deck(random, INTERLUDES);
	const strikes = new Deck(random, STRIKES);
	const qemu = (await output('qemu-img', ['--version'])).split('\n')[0] ?? '';
	console.log(`${qemu}, ${points} points, ${rate} writes a second, --seed ${seed}`);
	for (let [number, taken] = [1, 0]; taken < points; number++) {
		const interlude = taken === 0 ? undefined : interludes.deal();
		const attempt = {
			...{number, interlude, options: someOptions(random)},
			...{strike: strikes.deal(), moment: someMoment(random, USUAL_MS)},
		};
		taken += await make(attempt, stage, ledger, tally);
		await delay(random.whole(0, PAUSE_MS));
	}
	const {writes, seconds, errors} = await vm.written();
	await judgeEnd(stage, ledger, tally);
	console.log(['', ...tally.lines(), ''].join('\n'));
	console.log(
		`${writes} guest writes in ${Math.round(seconds)} s: ${Math.round(writes / seconds)} a second, ${errors} failed`,
	);
	console.log(`${tally.clusters} clusters compared in ${tally.restores} restored points: ${tally.wrongClusters} wrong`);
	console.log(tally.wrong.length === 0 ? 'all right' : `${tally.wrong.length} things are wrong:`);
	for (const wrong of tally.wrong) console.log(`  ${wrong}`);
	console.log(`seed ${seed}`);
} finally {
	await killAll(await ourProcesses(runtimeDir));
	await rm(folder, {recursive: true, force: true});
}
process.exitCode = tally.wrong.length === 0 ? 0 : 1;
