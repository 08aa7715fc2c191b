import fs from 'node:fs/promises';
import {UsageError} from '../../errors.ts';
import {ZERO_CONTEXT} from '../../images/cluster-runs.ts';
import type {NbdExport} from '../../nbd/export.ts';
import {STATE_HOLE, STATE_ZERO, type StatusExtent} from '../../nbd/protocol.ts';
import {serveNbd} from '../../nbd/server.ts';
import {fileError} from '../../repository/durable-files.ts';
import {CLUSTER_BYTES, VMSTATE} from '../../vma/geometry.ts';
import type {VmaDevice} from '../../vma/header.ts';
import {type OpenVma, openVma} from '../../vma/open-vma.ts';
import {ZSTD_MAGIC} from '../../vma/zstd.ts';
import {indexBeside} from '../archive/archive-output.ts';
import {archivedNames} from '../archive/archived-names.ts';
import {socketIn} from '../../sink/nbd-socket.ts';
import {beginRun} from '../run.ts';
import type {ServedSource} from './served-source.ts';

/** So many clusters are looked at for one answer. */
const MAX_STATUS_CLUSTERS = 16_384;

export interface ArchiveChoice {
	readonly path: string;
	readonly index?: string | undefined;
	/** The names of some disks; all if not given. */
	readonly only?: readonly string[] | undefined;
}

/** The disks of an archive, through its index, which lies beside it or is named, or else through a scan. */
export async function openServedArchive({path: file, index, only}: ArchiveChoice): Promise<ServedSource> {
	await requirePlain(file);
	const vma = await openVma(file, index ?? (await indexBeside(file)));
	await using undo = new AsyncDisposableStack();
	undo.defer(vma.close);
	const {diskOf} = archivedNames(vma.header);
	const devices = vma.header.devices.filter(({name}) => name !== VMSTATE);
	const known = devices.map(diskOf);
	const unknown = only?.filter(name => !known.includes(name)) ?? [];
	if (unknown.length > 0) {
		throw new UsageError(`the archive has no disk ${unknown.join(', ')}`, {hint: `Its disks: ${known.join(', ')}`});
	}
	const chosen = devices.filter(device => only?.includes(diskOf(device)) ?? true);
	const exports = chosen.map(device => exportOf(vma, device));
	const owned = undo.move();
	return {
		disks: chosen.map((device, number) => ({
			...{name: diskOf(device), sizeBytes: device.sizeBytes, exportName: `disk${number}`},
		})),
		died: new Promise<never>(() => undefined),
		openExports: () => Promise.resolve(exports),
		openSocket: async () => {
			const run = await beginRun(`reading ${file} since ${new Date().toISOString()}`);
			owned.defer(() => run.end());
			const socket = socketIn(run.folder);
			owned.use(await serveNbd({unix: socket}, new Map(exports.map((one, number) => [`disk${number}`, one]))));
			return socket;
		},
		[Symbol.asyncDispose]: () => owned.disposeAsync(),
	};
}

function exportOf(vma: OpenVma, device: VmaDevice): NbdExport {
	return {
		sizeBytes: device.sizeBytes,
		connections: 'coherent',
		read: async (offset, into) => {
			(await vma.read(device, offset, into.length)).copy(into);
		},
		contexts: [ZERO_CONTEXT],
		blockStatus: (_context, offset, length, limit) => Promise.resolve(statusOf(vma, device, offset, length, limit)),
	};
}

function statusOf(vma: OpenVma, device: VmaDevice, offset: number, length: number, limit: number): StatusExtent[] {
	const extents: StatusExtent[] = [];
	const first = Math.floor(offset / CLUSTER_BYTES);
	const last = Math.min(Math.ceil((offset + length) / CLUSTER_BYTES), first + MAX_STATUS_CLUSTERS);
	for (let cluster = first; cluster < last; cluster++) {
		const start = Math.max(offset, cluster * CLUSTER_BYTES);
		const bytes = Math.min((cluster + 1) * CLUSTER_BYTES, device.sizeBytes) - start;
		const flags = vma.contentOf(device, cluster) === 'zero' ? STATE_HOLE | STATE_ZERO : 0;
		const before = extents.at(-1);
		if (before?.flags === flags) extents[extents.length - 1] = {length: before.length + bytes, flags};
		else if (extents.length === limit) break;
		else extents.push({length: bytes, flags});
	}
	return extents;
}

/** What is compressed cannot be read anywhere. */
async function requirePlain(file: string): Promise<void> {
	const start = Buffer.alloc(ZSTD_MAGIC.length);
	try {
		const handle = await fs.open(file);
		try {
			await handle.read(start, 0, start.length, 0);
		} finally {
			await handle.close();
		}
	} catch (error) {
		throw fileError('read', file, error);
	}
	if (!start.equals(ZSTD_MAGIC)) return;
	throw new UsageError(`${file} is compressed, and can only be read from its start to its end`, {
		hint: `Decompress it first: zstd -d ${file}`,
	});
}
