/**
 * How fast the QMP client is, beside QEMU's own in Python and a bare socket, and what many monitors cost:
 *
 *     npm run bench:qmp [-- --runs N]
 *
 * The three take turns in one run, on one real QEMU; another has the many monitors, which make a QEMU slow. The Python
 * client is that of Debian's source package of QEMU.
 */
import {execFile, spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {createInterface} from 'node:readline';
import {parseArgs, promisify} from 'node:util';
import {formatTable} from '../src/cli/table.ts';
import {QmpConnection} from '../src/qmp/connection.ts';
import {launchQemu} from '../test/support/launch-qemu.ts';
import {here, median} from './measured-program.ts';
import {bareSocket} from './qmp/bare.ts';

const {values: options} = parseArgs({options: {runs: {type: 'string', default: '5'}}});
const MONITORS = 200;
const EVENTS = 500;

const run = promisify(execFile);

type Client = (socket: string, command: string, count: number) => Promise<number[]>;

const ours: Client = async (unix, command, count) => {
	const qmp = await QmpConnection.open({unix});
	const seconds: number[] = [];
	for (let n = 0; n < count; n++) {
		const began = performance.now();
		await qmp.executeAny(command);
		seconds.push((performance.now() - began) / 1000);
	}
	await qmp.close();
	return seconds;
};

async function pythonClient(): Promise<Client | undefined> {
	const folder = here('../.cache/qemu-python');
	try {
		await run(here('qmp/fetch-python'), [folder]);
	} catch (error) {
		console.error(`without QEMU's Python client: ${String(error)}`);
		return undefined;
	}
	return async (socket, command, count) => {
		const {stdout} = await run('python3', [here('qmp/client.py'), socket, command, String(count)], {
			env: {...process.env, PYTHONPATH: folder},
			maxBuffer: 64 << 20,
		});
		return (JSON.parse(stdout) as {seconds: number[]}).seconds;
	};
}

/** Milliseconds that 95 of 100 do not need. */
function percentile(seconds: readonly number[], part: number): number {
	return (seconds.toSorted((one, other) => one - other)[Math.floor(seconds.length * part)] ?? NaN) * 1000;
}

const folder = await mkdtemp(join(tmpdir(), 'quiesce-qmp-'));
const qemu = await launchQemu(folder, []);
try {
	const python = await pythonClient();
	const clients: readonly (readonly [string, Client])[] = [
		['ours', ours],
		['bare socket', bareSocket],
		...(python ? [['QEMU in Python', python] as const] : []),
	];
	for (const [command, count] of [
		['query-status', 5000],
		['query-qmp-schema', 100],
	] as const) {
		const rates = new Map<string, number[]>();
		const all = new Map<string, number[]>();
		for (let nth = 0; nth < Number(options.runs); nth++) {
			for (const [name, client] of clients) {
				const seconds = await client(qemu.qmpPath, command, count);
				rates.set(name, [...(rates.get(name) ?? []), count / seconds.reduce((sum, one) => sum + one, 0)]);
				all.set(name, [...(all.get(name) ?? []), ...seconds]);
			}
		}
		const rows = clients.map(([name]) => ({
			name,
			rate: median(rates.get(name) ?? []),
			half: percentile(all.get(name) ?? [], 0.5),
			most: percentile(all.get(name) ?? [], 0.95),
		}));
		const bare = rows.find(({name}) => name === 'bare socket')?.rate ?? NaN;
		console.log(
			formatTable<(typeof rows)[number]>(
				[
					{title: command.toUpperCase(), value: ({name}) => name},
					{title: 'PER SECOND', value: ({rate}) => rate.toFixed(0), align: 'right'},
					{title: 'OF BARE', value: ({rate}) => (rate / bare).toFixed(2), align: 'right'},
					{title: 'MEDIAN', value: ({half}) => `${half.toFixed(3)} ms`, align: 'right'},
					{title: '95 %', value: ({most}) => `${most.toFixed(3)} ms`, align: 'right'},
				],
				rows,
			),
		);
	}
	await qemu.kill();
	await measureMonitors();
} finally {
	await qemu.kill();
	await rm(folder, {recursive: true});
}

/** Every event of a QEMU goes to all its monitors. */
async function measureMonitors(): Promise<void> {
	const names = Array.from({length: MONITORS}, (_, n) => `many-${n}.sock`);
	const busy = await launchQemu(
		folder,
		names.flatMap(name => ['-qmp', `unix:${name},server=on,wait=off`]),
	);
	await using monitored = new AsyncDisposableStack();
	monitored.defer(busy.kill);
	const sockets = names.map(name => join(folder, name));
	const child = spawn(
		process.execPath,
		['--disable-warning=ExperimentalWarning', here('qmp/monitors.ts'), ...sockets],
		{
			stdio: ['pipe', 'pipe', 'inherit'],
		},
	);
	const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
	await lines.next();
	const qmp = await QmpConnection.open({unix: busy.qmpPath});
	const began = performance.now();
	for (let n = 0; n < EVENTS / 2; n++) {
		await qmp.execute('stop');
		await qmp.execute('cont');
	}
	const seconds = (performance.now() - began) / 1000;
	await qmp.close();
	child.stdin.end();
	const {value} = await lines.next();
	const {events, cpuSeconds, before, opened, after} = JSON.parse(value as string) as Record<string, number>;
	await once(child, 'exit');
	console.log(
		`${MONITORS} monitors in one process: ${((opened ?? 0) - (before ?? 0)).toFixed(0)} MiB for all, ${(after ?? 0).toFixed(0)} MiB in the end; ` +
			`${events ?? 0} events in ${seconds.toFixed(1)} s took ${(((cpuSeconds ?? 0) * 1e6) / (events ?? 1)).toFixed(0)} µs of CPU each`,
	);
}
