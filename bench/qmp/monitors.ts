/**
 * Opens all monitors that are named, says so, counts their events until its stdin ends, and prints what that took: CPU in
 * seconds, and memory in MiB before and after.
 */
import {once} from 'node:events';
import {QmpConnection} from '../../src/qmp/connection.ts';

const before = process.memoryUsage().rss / 2 ** 20;
const connections = await Promise.all(process.argv.slice(2).map(unix => QmpConnection.open({unix})));
let events = 0;
for (const {events$} of connections) {
	events$.subscribe({
		next: () => events++,
		error: (error: unknown) => {
			throw error;
		},
	});
}
console.log(JSON.stringify({opened: connections.length}));
const opened = process.memoryUsage().rss / 2 ** 20;
const began = process.cpuUsage();
process.stdin.resume();
await once(process.stdin, 'end');
const {user, system} = process.cpuUsage(began);
console.log(
	JSON.stringify({
		events,
		cpuSeconds: (user + system) / 1e6,
		before,
		opened,
		after: process.memoryUsage().rss / 2 ** 20,
	}),
);
process.exit();
