import net from 'node:net';

const RECEIVE_BYTES = 256 * 1024;

/**
 * A socket that a server with `pauseOnConnect` has accepted, as one that gives all that arrives in the same buffer: the bytes
 * are good until `onBytes` returns, or for as long as the socket is paused. Node offers that only for sockets that it connects
 * itself, and takes a new buffer of 64 KiB for each read of the others, which is three times as slow (Node 22 to 26). So the
 * handle is moved to a new socket; where Node has none to move, what was accepted is used as it is.
 */
export function readInOneBuffer(accepted: net.Socket, onBytes: (bytes: Uint8Array) => void): net.Socket {
	const shell = accepted as {_handle?: object | null};
	const {_handle: handle} = shell;
	if (!handle) {
		accepted.on('data', onBytes);
		return accepted;
	}
	const onread = {
		buffer: Buffer.allocUnsafeSlow(RECEIVE_BYTES),
		callback: (count: number, bytes: Uint8Array): boolean => {
			onBytes(bytes.subarray(0, count));
			return true;
		},
	};
	const socket = new net.Socket({handle: handle as net.BoundSocket, onread});
	// The server counts what it accepted: it is told of the end when the new one has ended.
	shell._handle = null;
	socket.once('close', () => accepted.destroy());
	return socket;
}
