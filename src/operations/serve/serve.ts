import path from 'node:path';
import type {SocketAddress} from '../../config/address.ts';
import {asError, QuiesceError, UsageError} from '../../errors.ts';
import {freeSocket} from '../../host/free-socket.ts';
import type {NbdError} from '../../nbd/errors.ts';
import {serveNbd} from '../../nbd/server.ts';
import {requireTlsOverTcp, type ServerTls} from '../../nbd/tls.ts';
import {nbdUri} from '../../nbd/uri.ts';
import type {PointChoice} from '../archive/open-point.ts';
import {beginRun} from '../run.ts';
import {type ArchiveChoice, openServedArchive} from './served-archive.ts';
import {serveOverlays} from './overlays.ts';
import {openServedPoint} from './served-point.ts';

export interface ServeRequest {
	readonly source: ({readonly kind: 'point'} & PointChoice) | ({readonly kind: 'archive'} & ArchiveChoice);
	/** A Unix socket in a folder of the run if not given. With TCP there has to be TLS. */
	readonly address?: SocketAddress | undefined;
	readonly tls?: ServerTls | undefined;
	/** Lets clients write, to images that are thrown away at the end. Over a Unix socket alone. */
	readonly writableOverlay: boolean;
	/** For these images; the folder for temporary files if not given. */
	readonly scratch?: string | undefined;
	readonly signal: AbortSignal;
	/** How much of a point's files has been read to check them. */
	readonly onProgress: (bytesRead: number, bytesTotal: number) => void;
	/** Told of clients that do not keep to the protocol. */
	readonly report?: ((error: NbdError) => void) | undefined;
}

export interface ServedUri {
	readonly disk: string;
	readonly sizeBytes: number;
	readonly uri: string;
}

export interface Serving extends AsyncDisposable {
	readonly disks: readonly ServedUri[];
	readonly writable: boolean;
	/** Rejects if it cannot go on. Never resolves. */
	readonly died: Promise<never>;
}

/** Serves the disks of a point or of an archive over NBD, until what it returns is disposed of. */
export async function serve(request: ServeRequest): Promise<Serving> {
	const {source: chosen, writableOverlay, scratch, tls, signal, onProgress, report} = request;
	requireSafe(request);
	await using undo = new AsyncDisposableStack();
	const run = await beginRun(`serve since ${new Date().toISOString()}`);
	undo.defer(() => run.end());
	const address = request.address ?? {unix: path.join(run.folder, 'serve.sock')};
	if ('unix' in address) await freeSocket(address.unix);
	const source = await (chosen.kind === 'point'
		? openServedPoint(chosen, {signal, onProgress})
		: openServedArchive(chosen));
	undo.use(source);
	let bound = address;
	let died = source.died;
	if (writableOverlay && 'unix' in address) {
		const overlays = undo.use(await serveOverlays(source, address.unix, scratch));
		died = Promise.race([died, overlays.died]);
		died.catch(() => undefined);
	} else {
		const exports = await source.openExports();
		const named = new Map(source.disks.map(({name}, index) => [name, exports[index] ?? fail()]));
		const server = await serveNbd(address, named, {...(tls && {tls}), ...(report && {report})}).catch(
			(error: unknown) => {
				throw new QuiesceError('FAILED', `cannot listen: ${asError(error).message}`, {cause: error});
			},
		);
		undo.use(server);
		bound = server.address;
	}
	signal.throwIfAborted();
	const owned = undo.move();
	return {
		disks: source.disks.map(({name, sizeBytes}) => ({
			disk: name,
			sizeBytes,
			uri: nbdUri(bound, name, tls && {server: tls}),
		})),
		writable: writableOverlay,
		died,
		[Symbol.asyncDispose]: () => owned.disposeAsync(),
	};
}

function fail(): never {
	throw new Error('a disk has no export');
}

function requireSafe({address, tls, writableOverlay}: ServeRequest): void {
	requireTlsOverTcp(address, tls);
	// Over TCP there is TLS by now.
	if (writableOverlay && tls) {
		throw new UsageError('a writable overlay is served on a Unix socket, without TLS');
	}
}
