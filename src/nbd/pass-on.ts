import type {NbdClient} from './client.ts';
import type {NbdExport} from './export.ts';
import type {StatusExtent} from './protocol.ts';

/** So many pieces are asked about at once, so that sparse disks are told of in reasonable time. */
const PIECES = 64;

export interface PassedOn {
	/** The client's contexts, by the names that they are to have. */
	readonly contexts: ReadonlyMap<string, string>;
	/** No request to the client's server crosses a multiple of it, but for those about {@link wholeContexts}. */
	readonly pieceBytes?: number | undefined;
	/** Contexts that the limit is not for, by their new names. */
	readonly wholeContexts?: ReadonlySet<string>;
	/** Told when something could not be read, whyever; returns what readers are told. Without it they are told what it is. */
	readonly failed?: (error: unknown) => Error;
}

/** An export that reads what a client reads. */
export function passOn(client: NbdClient, passed: PassedOn): NbdExport {
	const {contexts, pieceBytes = Infinity, wholeContexts, failed} = passed;
	const orFail = async <Value>(work: () => Promise<Value>): Promise<Value> => {
		try {
			return await work();
		} catch (cause) {
			throw failed ? failed(cause) : cause;
		}
	};
	return {
		sizeBytes: client.sizeBytes,
		connections: 'coherent',
		contexts: [...contexts.keys()],
		read: (offset, into) =>
			orFail(async () => {
				const reads = piecesOf(offset, into.length, pieceBytes).map(piece => {
					const from = piece.offset - offset;
					return client.read(piece.offset, piece.length, into.subarray(from, from + piece.length));
				});
				// The memory is theirs until the last of them is done.
				await Promise.allSettled(reads);
				await Promise.all(reads);
			}),
		blockStatus: (context, offset, length, limit) =>
			orFail(async () => {
				const inner = contexts.get(context) ?? context;
				const whole = wholeContexts?.has(context) === true;
				const pieces = whole ? [{offset, length}] : piecesOf(offset, length, pieceBytes, PIECES);
				const told = await Promise.all(
					pieces.map(async piece => ({piece, status: await client.blockStatus(piece.offset, piece.length)})),
				);
				return join(told.map(({piece, status}) => ({length: piece.length, extents: status.get(inner) ?? []}))).slice(
					0,
					limit,
				);
			}),
	};
}

interface Piece {
	readonly offset: number;
	readonly length: number;
}

function piecesOf(offset: number, length: number, pieceBytes: number, most = Infinity): Piece[] {
	if (pieceBytes === Infinity) return [{offset, length}];
	const pieces: Piece[] = [];
	for (let at = offset; at < offset + length && pieces.length < most;) {
		const end = Math.min(offset + length, (Math.floor(at / pieceBytes) + 1) * pieceBytes);
		pieces.push({offset: at, length: end - at});
		at = end;
	}
	return pieces;
}

/** Of pieces that follow one another, up to the first that is not told of to its end. */
function join(pieces: readonly {readonly length: number; readonly extents: readonly StatusExtent[]}[]): StatusExtent[] {
	const joined: StatusExtent[] = [];
	for (const {length, extents} of pieces) {
		let told = 0;
		for (const extent of extents) {
			const kept = pieces.length > 1 ? Math.min(extent.length, length - told) : extent.length;
			told += kept;
			const last = joined.at(-1);
			if (last?.flags === extent.flags) joined[joined.length - 1] = {...last, length: last.length + kept};
			else joined.push({flags: extent.flags, length: kept});
		}
		if (told < length) break;
	}
	return joined;
}
