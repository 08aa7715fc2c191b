import {once} from 'node:events';
import net from 'node:net';
import {onTestFinished} from 'vitest';

/** A line to a socket that the test can cut. Whoever connects anew is put through. */
export interface CutLine {
	readonly address: {readonly unix: string};
	cut: () => void;
}

/** Listens at `path` until the test ends. */
export async function lineTo(target: string, path: string): Promise<CutLine> {
	const sockets = new Set<net.Socket>();
	const cut = (): void => {
		for (const socket of sockets) socket.destroy();
		sockets.clear();
	};
	const server = net.createServer(near => {
		const far = net.connect(target);
		for (const [from, to] of [
			[near, far],
			[far, near],
		] as const) {
			sockets.add(from);
			from.on('error', () => undefined);
			from.once('close', () => to.destroy());
			from.pipe(to);
		}
	});
	onTestFinished(() => {
		cut();
		server.close();
	});
	server.listen(path);
	await once(server, 'listening');
	return {address: {unix: path}, cut};
}
