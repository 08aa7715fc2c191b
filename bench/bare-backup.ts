/**
 * The least that a script can do: add the targets, send the transaction, wait for the jobs, remove the targets. No check,
 * no freeze, no fsync, no checksum. node bench/bare-backup.ts MONITOR '{"node": targetOptions, …}' [BITMAP]
 */
import net from 'node:net';

const [monitor = '', targets = '{}', bitmap] = process.argv.slice(2);
const sync = bitmap === undefined ? {sync: 'full'} : {'sync': 'bitmap', bitmap, 'bitmap-mode': 'never'};
const nodes = Object.entries(JSON.parse(targets) as Record<string, object>);
const socket = net.connect(monitor);
const waiting: ((message: Record<string, unknown>) => void)[] = [];
const concluded = new Set<string>();
let onConcluded = (): void => undefined;
let text = '';

socket.setEncoding('utf8').on('data', part => {
	text += String(part);
	const lines = text.split('\n');
	text = lines.pop() ?? '';
	for (const line of lines) receive(JSON.parse(line) as Record<string, unknown>);
});

function receive(message: Record<string, unknown>): void {
	if (message['event'] === undefined) {
		waiting.shift()?.(message);
		return;
	}
	const data = message['data'] as {id?: string; status?: string} | undefined;
	if (message['event'] !== 'JOB_STATUS_CHANGE' || data?.status !== 'concluded') return;
	concluded.add(data.id ?? '');
	onConcluded();
}

function reply(): Promise<Record<string, unknown>> {
	return new Promise(resolve => waiting.push(resolve));
}

async function execute(command: string, args: object): Promise<void> {
	const answer = reply();
	socket.write(JSON.stringify({execute: command, arguments: args}));
	const {error} = await answer;
	if (error !== undefined) throw new Error(`${command}: ${JSON.stringify(error)}`);
}

await reply();
await execute('qmp_capabilities', {});
for (const [node, options] of nodes) await execute('blockdev-add', {...options, 'node-name': `bare-${node}`});
const done = new Promise<void>(resolve => {
	onConcluded = () => {
		if (concluded.size === nodes.length) resolve();
	};
});
await execute('transaction', {
	actions: nodes.map(([node]) => ({
		type: 'blockdev-backup',
		data: {'job-id': `bare-${node}`, 'device': node, 'target': `bare-${node}`, ...sync, 'auto-dismiss': false},
	})),
});
await done;
for (const [node] of nodes) {
	await execute('job-dismiss', {id: `bare-${node}`});
	await execute('blockdev-del', {'node-name': `bare-${node}`});
}
socket.destroy();
