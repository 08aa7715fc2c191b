import {once} from 'node:events';
import {connect} from 'node:net';

/** The least that a client can do: writes a line, and waits for one. Returns the seconds of each command. */
export async function bareSocket(path: string, command: string, count: number): Promise<number[]> {
	const socket = connect(path);
	await once(socket, 'connect');
	let rest = '';
	let take: (line: string) => void = () => undefined;
	socket.setEncoding('utf8').on('data', part => {
		rest += String(part);
		if (!rest.endsWith('\n')) return;
		const line = rest;
		rest = '';
		take(line);
	});
	const ask = (name: string): Promise<string> =>
		new Promise(resolve => {
			take = resolve;
			socket.write(`{"execute":"${name}"}\n`);
		});
	// The greeting comes unasked.
	await new Promise<string>(resolve => (take = resolve));
	await ask('qmp_capabilities');
	const seconds: number[] = [];
	for (let n = 0; n < count; n++) {
		const began = performance.now();
		JSON.parse(await ask(command));
		seconds.push((performance.now() - began) / 1000);
	}
	socket.destroy();
	return seconds;
}
