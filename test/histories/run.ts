/**
 * `npm run histories`: takes snapshots of a VM that is written to all the time, thins them by commits, streams and
 * deletions while the program is killed at random, and compares the chains with a model and every byte with what was
 * written.
 *
 *   --histories N   how many, each with a VM of its own (20)
 *   --snapshots N   how many snapshots each takes (24)
 *   --seed N        of the first; the same choices again, but for how long everything takes
 *   --verbose       says what happens, also where nothing is wrong
 */
import {mkdir, mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import {Tally} from '../endurance/tally.ts';
import {output} from '../guest/command.ts';
import {playHistory} from './history.ts';

const {values} = parseArgs({
	options: {
		histories: {type: 'string', default: '20'},
		snapshots: {type: 'string', default: '24'},
		seed: {type: 'string', default: String(Math.floor(Math.random() * 1e6))},
		verbose: {type: 'boolean', default: false},
	},
});
// The program is started some hundred times, and half of what that takes is to compile it.
process.env['NODE_COMPILE_CACHE'] ??= fileURLToPath(new URL('../../.cache/node', import.meta.url));
const [histories, snapshots, first] = [Number(values.histories), Number(values.snapshots), Number(values.seed)];
const qemu = (await output('qemu-img', ['--version'])).split('\n')[0] ?? '';
console.log(`${qemu}, ${histories} histories of ${snapshots} snapshots, --seed ${first}`);
const tally = new Tally();
const folder = await mkdtemp(join(tmpdir(), 'quiesce-histories-'));
try {
	for (let seed = first; seed < first + histories; seed++) {
		const its = join(folder, String(seed));
		await mkdir(its);
		const lines: string[] = [];
		const log = (line: string): void => {
			lines.push(line);
			if (values.verbose) console.log(line);
		};
		const before = tally.wrong.length;
		try {
			await playHistory({seed, snapshots, between: 3, kills: true, folder: its, tally, log});
		} catch (error) {
			tally.find(`history ${seed}: ${String(error)}`);
		}
		if (tally.wrong.length > before && !values.verbose) console.log(lines.join('\n'));
		console.log(`history ${seed}: ${tally.wrong.length - before} wrong`);
		await rm(its, {recursive: true});
	}
} finally {
	await rm(folder, {recursive: true, force: true});
}
console.log(['', ...tally.lines(), ''].join('\n'));
console.log(
	`${tally.clusters} clusters compared in ${tally.restores} snapshots, points and disks: ${tally.wrongClusters} wrong`,
);
console.log(tally.wrong.length === 0 ? 'all right' : `${tally.wrong.length} things are wrong`);
process.exitCode = tally.wrong.length === 0 ? 0 : 1;
