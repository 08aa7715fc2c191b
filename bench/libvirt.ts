/**
 * Beside virsh, in pairs within one run: a quiesced snapshot of two disks, and an active commit with pivot of 256 MiB.
 *
 *     npm run bench:libvirt [-- --pairs N]
 *
 * Needs root, and Debian's libvirt-daemon-system and libvirt-clients. Two guests of one kind run side by side, one of which libvirt has started,
 * by a daemon of this program's own. In both a program writes to files on both file systems; its longest write is what the guest
 * felt of the freeze. What runs is the compiled program.
 */
import fs from 'node:fs/promises';
import path from 'node:path';
import {performance} from 'node:perf_hooks';
import {parseArgs} from 'node:util';
import {formatTable} from '../src/cli/table.ts';
import {startGuest} from '../test/guest/guest.ts';
import {rawStatsIn} from '../test/guest/serial.ts';
import {type Disk, makeDisks, startDomain} from './libvirt/domain.ts';
import {installProgram, median, timed} from './measured-program.ts';

const {values: options} = parseArgs({options: {pairs: {type: 'string', default: '9'}}});
const MIB = 1024 ** 2;
const COMMIT_MIB = 256;
const folder = await fs.mkdtemp('/var/tmp/quiesce-bench-');
process.env['QUIESCE_RUNTIME_DIR'] = path.join(folder, 'run');
await fs.chmod(folder, 0o755);

/** One of both, with a guest of its own. */
interface Side {
	readonly run: (script: string) => Promise<{readonly code: number; readonly stdout: string; readonly stderr: string}>;
	readonly snapshot: (name: string, disks: readonly string[], quiesce: boolean) => Promise<void>;
	readonly commit: (name: string, disks: readonly string[]) => Promise<void>;
}

interface Figures {
	readonly snapshot: number[];
	readonly longestWrite: number[];
	readonly commit: number[];
}

async function ours(program: string): Promise<Side & AsyncDisposable> {
	const home = path.join(folder, 'ours');
	await fs.mkdir(home);
	const disks = await makeDisks(home, 2 * COMMIT_MIB * MIB);
	const images = Object.fromEntries(disks.map(({name, image}) => [name, image]));
	const guest = await startGuest({name: `bench-${process.pid}`, stamps: 'none', raw: 'idle', images, format: 'qcow2'});
	const quiesce = (...args: readonly string[]) =>
		timed(folder, process.execPath, [program, ...args, '--qmp', guest.qmpPath]);
	const named = (names: readonly string[]): string[] => names.flatMap(name => ['--disk', name]);
	return {
		run: script => guest.run(script, 120_000),
		snapshot: async (name, names, freeze) => {
			const how = freeze ? ['require', '--agent', guest.agentPath] : ['never'];
			await quiesce('snapshot', 'create', name, ...named(names), '--quiesce', ...how);
		},
		commit: async (_, names) => {
			await quiesce('commit', ...named(names));
		},
		[Symbol.asyncDispose]: () => guest.kill(),
	};
}

async function theirs(): Promise<Side & AsyncDisposable> {
	const home = path.join(folder, 'theirs');
	await fs.mkdir(home);
	const domain = await startDomain(`bench-${process.pid}`, home, 2 * COMMIT_MIB * MIB);
	const overlay = (name: string, {image}: Disk): string => `${image.path}.${name}`;
	const specOf = (name: string, disk: Disk, names: readonly string[]): string[] => {
		const how = names.includes(disk.name) ? `snapshot=external,file=${overlay(name, disk)}` : 'snapshot=no';
		return ['--diskspec', `${disk.name},${how}`];
	};
	return {
		run: script => domain.control.run(script, 120_000),
		snapshot: async (name, names, freeze) => {
			const specs = domain.disks.flatMap(disk => specOf(name, disk, names));
			const how = ['--disk-only', '--atomic', '--no-metadata', ...(freeze ? ['--quiesce'] : [])];
			await domain.virsh('snapshot-create-as', domain.name, name, ...how, ...specs);
		},
		commit: async (name, names) => {
			for (const disk of domain.disks.filter(one => names.includes(one.name))) {
				await domain.virsh('blockcommit', domain.name, disk.name, '--active', '--pivot', '--wait');
				await fs.rm(overlay(name, disk));
			}
		},
		[Symbol.asyncDispose]: () => domain[Symbol.asyncDispose](),
	};
}

async function must(side: Side, script: string): Promise<string> {
	const {code, stdout, stderr} = await side.run(script);
	if (code !== 0) throw new Error(`in the guest: ${script}: ${stderr}`);
	return stdout;
}

async function seconds(work: () => Promise<void>): Promise<number> {
	const began = performance.now();
	await work();
	return (performance.now() - began) / 1000;
}

async function measure(side: Side, nth: number, figures: Figures): Promise<void> {
	const name = `s${nth}`;
	await must(side, 'sync; writer raw /run/bench.state 500 0 /mnt/a/data/file-0 /mnt/b/data/file-0');
	figures.snapshot.push(await seconds(() => side.snapshot(name, ['vda', 'vdb'], true)));
	const [stats] = rawStatsIn(await must(side, 'writer raw-stop /run/bench.state'));
	figures.longestWrite.push((stats?.worstOverallMs ?? NaN) / 1000);
	await side.commit(name, ['vda', 'vdb']);
	const second = `${name}-c`;
	await side.snapshot(second, ['vdc'], false);
	await must(side, `dd if=/dev/zero of=/dev/vdc bs=1M count=${COMMIT_MIB} conv=fsync`);
	figures.commit.push(await seconds(() => side.commit(second, ['vdc'])));
}

try {
	const program = await installProgram(folder);
	await using us = await ours(program);
	await using them = await theirs();
	const sides = [
		{who: 'quiesce', side: us, figures: {snapshot: [], longestWrite: [], commit: []} as Figures},
		{who: 'virsh', side: them, figures: {snapshot: [], longestWrite: [], commit: []} as Figures},
	];
	for (let nth = 0; nth < Number(options.pairs); nth++) {
		const order = nth % 2 === 0 ? sides : sides.toReversed();
		for (const {side, figures} of order) await measure(side, nth, figures);
	}
	const rows = [
		{what: 'quiesced snapshot of 2 disks', of: 'snapshot'},
		{what: "the guest's longest write meanwhile", of: 'longestWrite'},
		{what: `active commit with pivot, ${COMMIT_MIB} MiB`, of: 'commit'},
	] as const;
	const range = (values: readonly number[]): string => {
		const [least, most] = [Math.min(...values), Math.max(...values)];
		return `${median(values).toFixed(3)} s (${least.toFixed(3)}–${most.toFixed(3)})`;
	};
	const table = sides.map(({who, figures}) => ({
		title: who.toUpperCase(),
		value: ({of}: (typeof rows)[number]) => range(figures[of]),
	}));
	process.stdout.write(formatTable([{title: 'MEDIAN (RANGE)', value: ({what}) => what}, ...table], rows));
} finally {
	await fs.rm(folder, {recursive: true});
}
