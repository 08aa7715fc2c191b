import {QuiesceError} from '../../errors.ts';
import {type ArchiveSource, openArchiveSource} from './archive-source.ts';
import {archivedNames} from './archived-names.ts';

export interface ArchiveListing {
	readonly uuid: string;
	/** RFC 3339. */
	readonly createdAt: string;
	readonly configs: readonly string[];
	readonly disks: readonly {readonly disk: string; readonly device: string; readonly sizeBytes: number}[];
}

/** What the header of an archive says. The rest of it is not read. */
export async function listArchive(source: ArchiveSource, signal: AbortSignal): Promise<ArchiveListing> {
	const archive = await openArchiveSource(source, signal);
	try {
		for await (const event of archive.events) {
			if (event.kind !== 'header') break;
			const {uuid, createdSeconds, configs, devices} = event.header;
			const {diskOf} = archivedNames(event.header);
			return {
				uuid,
				createdAt: new Date(createdSeconds * 1000).toISOString(),
				configs: configs.map(({name}) => name),
				disks: devices.map(device => ({disk: diskOf(device), device: device.name, sizeBytes: device.sizeBytes})),
			};
		}
	} finally {
		await archive.close();
	}
	throw new QuiesceError('DAMAGED', 'the archive has no header');
}
