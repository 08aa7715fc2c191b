import {createHash} from 'node:crypto';
import {once} from 'node:events';
import {connect, createServer} from 'node:net';

/**
 * Runs `work` while no other process on this machine runs work of the same name.
 * The lock is an abstract Unix socket: it goes with its holder, however that ends.
 */
export const oneAtATime = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
	const path = `\0quiesce-test-${createHash('sha256').update(name).digest('hex').slice(0, 32)}`;
	const server = createServer();
	for (;;) {
		try {
			server.listen(path);
			await once(server, 'listening');
			break;
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
			await holderGone(path);
		}
	}
	const waiting = new Set<{destroy: () => void}>();
	server.on('connection', socket => {
		waiting.add(socket);
		socket.on('error', () => undefined);
	});
	try {
		return await work();
	} finally {
		server.close();
		for (const socket of waiting) socket.destroy();
	}
};

const holderGone = (path: string): Promise<void> =>
	new Promise(resolve => {
		const socket = connect(path);
		// A refused connection says the same as a closed one: nobody holds the name.
		socket.on('error', () => undefined);
		socket.on('close', () => {
			resolve();
		});
		socket.resume();
	});
