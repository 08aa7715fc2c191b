/**
 * How long a guest's writes take while the target of its backup hangs, by method: prints a table, and puts it and a plot
 * into the documentation. Needs root, for it mounts a file system and freezes it.
 */
import {readFile, writeFile} from 'node:fs/promises';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import {format, resolveConfig} from 'prettier';
import {formatTable} from '../src/cli/table.ts';
import {plot} from './latency/plot.ts';
import {measure, type Method, type Series} from './latency/series.ts';
import {COLUMNS, markdownTable} from './latency/table.ts';

const METHODS: readonly Method[] = ['none', 'fleece', 'push'];

const {values: options} = parseArgs({
	options: {
		/** Where the disks and the repository are made; in memory, so that they do not share a disk. */
		folder: {type: 'string', default: '/dev/shm'},
		/** Only these series, separated by commas. */
		methods: {type: 'string', default: METHODS.join()},
		/** Writes a second. */
		rate: {type: 'string', default: '400'},
		/** How many seconds the target hangs. */
		stall: {type: 'string', default: '15'},
		/** Where the page and its plot are. */
		docs: {type: 'string', default: fileURLToPath(new URL('../docs', import.meta.url))},
	},
});

const settings = {
	folder: options.folder,
	writesPerSecond: Number(options.rate),
	stallSeconds: Number(options.stall),
};

function methodsOf(names: string): Method[] {
	return names.split(',').map(name => {
		const method = METHODS.find(one => one === name);
		if (!method) throw new Error(`--methods: ${name} is none of ${METHODS.join(', ')}`);
		return method;
	});
}

/** Nothing stays mounted or frozen after Ctrl-C. */
function untilInterrupted(): AbortSignal {
	const controller = new AbortController();
	for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
		process.once(signal, () => {
			controller.abort(new Error(`ended by ${signal}`));
		});
	}
	return controller.signal;
}

const PART = /(?<begin><!-- measured: [^\n]*-->\n).*(?<end><!-- \/measured -->)/s;

async function writePage(all: readonly Series[]): Promise<void> {
	const page = `${options.docs}/guest-latency.md`;
	const before = await readFile(page, 'utf8');
	if (!PART.test(before)) throw new Error(`${page} has no part between <!-- measured … --> and <!-- /measured -->`);
	const qemu = [...new Set(all.map(series => series.qemu))].join(', ');
	const what = `QEMU ${qemu}, ${settings.writesPerSecond} writes a second, ${settings.stallSeconds} s without a target:`;
	const after = before.replace(PART, `$<begin>\n${what}\n\n${markdownTable(all)}\n$<end>`);
	await writeFile(page, await format(after, {...(await resolveConfig(page)), filepath: page}));
	await writeFile(`${options.docs}/guest-latency.svg`, plot(all));
}

if (process.getuid?.() !== 0) throw new Error('it needs root, to mount a file system and to freeze it');
const signal = untilInterrupted();
const all: Series[] = [];
for (const method of methodsOf(options.methods)) all.push(await measure(method, settings, signal));
process.stdout.write(formatTable(COLUMNS, all));
if (!all.every(({point}) => point?.right ?? true)) throw new Error('a point is not right: the page stays as it is');
await writePage(all);
