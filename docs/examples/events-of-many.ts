/** Prints the events of all VMs whose monitors are in a folder, as one stream: node events-of-many.ts /run/vms */
import {readdir} from 'node:fs/promises';
import {join} from 'node:path';
import {parseAddress, watchEvents} from 'quiesce';

const [folder = ''] = process.argv.slice(2);
const controller = new AbortController();
process.once('SIGTERM', () => {
	controller.abort();
});
const sockets = (await readdir(folder)).filter(name => name.endsWith('.qmp'));

watchEvents({
	vms: sockets.map(name => ({name, monitors: [parseAddress(join(folder, name))]})),
	whenLost: 'retry',
	signal: controller.signal,
	tell: console.warn,
}).subscribe({
	next: message => {
		if (message.kind === 'event') console.log(message.vm, message.event, JSON.stringify(message.data));
		if (message.kind === 'connected') console.log(message.vm, 'is listened to');
		if (message.kind === 'gap') console.warn(`${message.vm}: nothing was heard from ${message.from} to ${message.to}`);
	},
	error: (error: unknown) => {
		if (!controller.signal.aborted) throw error;
	},
});
