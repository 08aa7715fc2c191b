/**
 * How far apart the cuts of two VMs of a group are, and for how long their guests are frozen, both under load:
 *
 *     npm run bench:group [-- --runs N]
 *
 * In each guest a program writes to both file systems, and another to two raw disks. What runs is the compiled program.
 */
import {mkdtemp, mkdir, rm} from 'node:fs/promises';
import {join} from 'node:path';
import {parseArgs} from 'node:util';
import {formatTable} from '../src/cli/table.ts';
import {type Guest, startGuest} from '../test/guest/guest.ts';
import {rawStatsIn} from '../test/guest/serial.ts';
import {runProgram} from './latency/program.ts';
import {median} from './measured-program.ts';

const {values: options} = parseArgs({options: {runs: {type: 'string', default: '21'}}});
const folder = await mkdtemp('/dev/shm/quiesce-group-');

/** As the program prints it. */
interface Point {
	readonly group: {readonly skew_seconds: number};
	readonly freeze: {readonly freeze_seconds: number; readonly held_seconds: number; readonly thaw_seconds: number};
}

/** In milliseconds. */
const figures = {skew: [] as number[], frozen: [] as number[], longestWrite: [] as number[]};

async function inGuest(guest: Guest, script: string): Promise<string> {
	return guest.read(script, 60_000);
}

async function takeOne(guests: readonly Guest[], nth: number): Promise<void> {
	const repository = join(folder, `repository-${nth}`);
	await mkdir(repository);
	const begin = 'writer raw /run/bench.state 500 0 /mnt/a/data/file-0 /mnt/b/data/file-0';
	for (const guest of guests) await inGuest(guest, begin);
	const named = guests.map(({name, qmpPath, agentPath}) => `${name}=${qmpPath},agent=${agentPath}`);
	const args = ['backup', ...named, '--group', 'bench', '-r', repository, '--quiesce', 'require'];
	const last = await runProgram(args, join(folder, 'run'));
	const {points} = last as unknown as {readonly points: readonly {readonly manifest: Point}[]};
	figures.skew.push((points[0]?.manifest.group.skew_seconds ?? NaN) * 1000);
	for (const {manifest} of points) {
		const {freeze_seconds: freeze, held_seconds: held, thaw_seconds: thaw} = manifest.freeze;
		figures.frozen.push((freeze + held + thaw) * 1000);
	}
	for (const guest of guests) {
		const [stats] = rawStatsIn(await inGuest(guest, 'writer raw-stop /run/bench.state'));
		figures.longestWrite.push(stats?.worstOverallMs ?? NaN);
	}
	await rm(repository, {recursive: true});
}

const guests: Guest[] = [];
try {
	for (const name of ['web1', 'db1']) {
		guests.push(await startGuest({name: `${name}-${process.pid}`, fillBytes: 1 << 20, raw: 'writing', rawRate: 500}));
	}
	for (let nth = 0; nth < Number(options.runs); nth++) await takeOne(guests, nth);
	const rows = [
		{what: 'skew between the cuts', values: figures.skew},
		{what: 'freeze, cuts and thaw of a guest', values: figures.frozen},
		{what: 'longest write to a file in a guest', values: figures.longestWrite},
	];
	const ms = (value: number): string => `${value.toFixed(1)} ms`;
	process.stdout.write(
		formatTable(
			[
				{title: `${options.runs} BACKUPS OF 2 VMS`, value: ({what}) => what},
				{title: 'MEDIAN', value: ({values}) => ms(median(values)), align: 'right'},
				{title: 'WORST', value: ({values}) => ms(Math.max(...values)), align: 'right'},
			],
			rows,
		),
	);
} finally {
	for (const guest of guests) await guest.kill();
	await rm(folder, {recursive: true});
}
