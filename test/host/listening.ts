import {once} from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import {onTestFinished} from 'vitest';

/** Listens until the test ends. Tells how many clients have come. */
export async function listenOn(socketPath: string): Promise<{readonly clients: () => number}> {
	fs.mkdirSync(path.dirname(socketPath), {recursive: true});
	let clients = 0;
	const server = net.createServer(socket => {
		clients++;
		socket.destroy();
	});
	server.listen(socketPath);
	await once(server, 'listening');
	onTestFinished(() => {
		server.close();
	});
	return {clients: () => clients};
}

/** A socket whose listener is gone, as a killed process leaves it. */
export async function leaveStale(socketPath: string): Promise<void> {
	fs.mkdirSync(path.dirname(socketPath), {recursive: true});
	const server = net.createServer();
	const bound = `${socketPath}.bound`;
	server.listen(bound);
	await once(server, 'listening');
	fs.linkSync(bound, socketPath);
	server.close();
	await once(server, 'close');
}
