/**
 * How long the cut holds up a guest with four disks: for each kind of VM, the median and the worst of some fleecing
 * backups, with the guest frozen and quiet, and with its writer at full speed. Prints a table, and with `--write-docs` puts
 * it into docs/guest-latency.md.
 */
import {mkdtemp, mkdir, readFile, rm, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import {format, resolveConfig} from 'prettier';
import {type Column, formatTable} from '../src/cli/table.ts';
import {startGuest} from '../test/guest/guest.ts';
import {runProgram} from './latency/program.ts';
import {duration} from './latency/table.ts';

const {values: options} = parseArgs({
	options: {
		/** Backups for each line. */
		'runs': {type: 'string', default: '21'},
		'write-docs': {type: 'boolean', default: false},
	},
});

interface Standstill {
	readonly of: 'disks' | 'vm';
	readonly seconds: number;
}

interface Line {
	readonly vm: string;
	readonly guest: string;
	readonly of: string;
	readonly ms: readonly number[];
}

const COLUMNS: readonly Column<Line>[] = [
	{title: 'VM', value: ({vm}) => vm},
	{title: 'guest', value: ({guest}) => guest},
	{title: 'stood still', value: ({of}) => of},
	{title: 'backups', value: ({ms}) => String(ms.length), align: 'right'},
	{title: 'median', value: ({ms}) => duration(ms[Math.floor(ms.length / 2)] ?? NaN), align: 'right'},
	{title: 'worst', value: ({ms}) => duration(ms.at(-1) ?? NaN), align: 'right'},
];

const folder = await mkdtemp('/dev/shm/quiesce-standstill-');

async function measure(vm: string, iothreads: number, isBusy: boolean): Promise<Line> {
	const guest = await startGuest({name: `standstill-${process.pid}`, iothreads, raw: 'writing', stamps: 'none'});
	try {
		if (!isBusy) await guest.rawStop();
		const repository = join(folder, `${iothreads}-${isBusy}`);
		await mkdir(repository);
		const found: Standstill[] = [];
		for (let run = 0; run < Number(options.runs); run++) {
			const args = ['backup', '--qmp', guest.qmpPath, '--agent', guest.agentPath, '-r', repository];
			const last = await runProgram([...args, '--quiesce', isBusy ? 'never' : 'require'], join(folder, 'run'));
			found.push((last as unknown as {manifest: {standstill: Standstill}}).manifest.standstill);
		}
		await rm(repository, {recursive: true});
		return {
			vm,
			guest: isBusy ? 'writing, not frozen' : 'frozen',
			of: [...new Set(found.map(({of}) => (of === 'vm' ? 'the VM' : 'its disks')))].join(', '),
			ms: found.map(({seconds}) => seconds * 1e3).sort((one, other) => one - other),
		};
	} finally {
		await guest.kill();
	}
}

const PART = /(?<begin><!-- standstill: [^\n]*-->\n).*(?<end><!-- \/standstill -->)/s;

async function writePage(lines: readonly Line[]): Promise<void> {
	const page = fileURLToPath(new URL('../docs/guest-latency.md', import.meta.url));
	const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
	const table = [
		COLUMNS.map(({title}) => title),
		COLUMNS.map(({align}) => (align === 'right' ? '--:' : '---')),
		...lines.map(line => COLUMNS.map(({value}) => value(line))),
	];
	const before = await readFile(page, 'utf8');
	if (!PART.test(before)) throw new Error(`${page} has no part between <!-- standstill … --> and <!-- /standstill -->`);
	const after = before.replace(PART, `$<begin>\n${table.map(row).join('')}\n$<end>`);
	await writeFile(page, await format(after, {...(await resolveConfig(page)), filepath: page}));
}

try {
	const lines: Line[] = [];
	for (const [vm, iothreads] of [
		['no I/O threads', 0],
		['two I/O threads', 2],
	] as const) {
		for (const isBusy of [false, true]) lines.push(await measure(vm, iothreads, isBusy));
	}
	process.stdout.write(formatTable(COLUMNS, lines));
	if (options['write-docs']) await writePage(lines);
} finally {
	await rm(folder, {recursive: true});
}
