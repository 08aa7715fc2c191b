import path from 'node:path';
import {QuiesceError, UsageError} from '../errors.ts';
import type {ImageFormat} from '../images/qemu-img.ts';
import type {Machine} from '../repository/machine.ts';
import type {StoredDisk} from '../repository/manifest.ts';
import {listPoints, type Point, readMachine} from '../repository/points.ts';
import {previewRepository} from '../repository/repository.ts';
import type {DiskSelection} from './select-disks.ts';
import {inodeOf} from './source-images.ts';

/** A VM that is off, as the operator names it. */
export interface VmImages {
	readonly name: string;
	/** What the VM's last point does not say, or says otherwise. */
	readonly images: readonly NamedImage[];
	/** Has the VM's points, if there are any; undefined if all is named in `images`. */
	readonly repository?: string | undefined;
}

export interface NamedImage {
	/** As the running VM has it. */
	readonly disk: string;
	readonly path: string;
	/** Undefined for that which the last point knows it by. */
	readonly format?: ImageFormat | undefined;
}

/** A VM that is off, with all that is to be known of it. */
export interface KnownVm {
	readonly name: string;
	/** That of its last point. */
	readonly uuid: string | undefined;
	readonly disks: readonly KnownDisk[];
	/** As its last point has it. */
	readonly machine: Machine | undefined;
}

export interface KnownDisk {
	readonly name: string;
	readonly deviceType: string | undefined;
	/** Undefined for a disk that is left out by name, whose image need not be there. */
	readonly image: {readonly path: string; readonly format: ImageFormat} | undefined;
}

/**
 * What is named, and what the VM's last point says of the rest: its other disks, and formats, which are never guessed
 * from an image, since a guest can write any header to a raw disk. Reads the repository only.
 */
export async function findVmImages(vm: VmImages, {only, exclude = []}: DiskSelection): Promise<KnownVm> {
	const last = await lastPoint(vm);
	const stored = last?.manifest.disks ?? [];
	const names = new Set([...stored.map(({name}) => name), ...vm.images.map(({disk}) => disk)]);
	if (names.size === 0) {
		throw new UsageError(`no image of ${vm.name} is known: no point of it is there to say`, {
			hint: 'Name each with --image DISK=PATH,format=FORMAT.',
		});
	}
	const disks: KnownDisk[] = [];
	for (const name of names) {
		const known = stored.find(disk => disk.name === name);
		const named = vm.images.find(({disk}) => disk === name);
		const isLeftOut = exclude.includes(name) || (only !== undefined && !only.includes(name));
		const image = isLeftOut ? undefined : await imageOf(name, named, known, last?.id ?? '');
		disks.push({name, deviceType: known?.deviceType ?? undefined, image});
	}
	return {
		name: vm.name,
		uuid: last?.manifest.uuid ?? undefined,
		disks,
		machine: last && (await readMachine(last)),
	};
}

async function lastPoint({name, repository}: VmImages): Promise<Point | undefined> {
	if (repository === undefined) return undefined;
	const points = await listPoints(await previewRepository(repository), name);
	return points.findLast(point => point.state === 'readable');
}

async function imageOf(
	disk: string,
	named: NamedImage | undefined,
	known: StoredDisk | undefined,
	point: string,
): Promise<KnownDisk['image']> {
	const [source] = known?.source ?? [];
	const file = named?.path ?? source?.filename;
	if (file === undefined || (named === undefined && !path.isAbsolute(file))) {
		throw new QuiesceError('REFUSED', `point ${point} does not say where on this host the image of ${disk} is`, {
			hint: `Name it with --image ${disk}=PATH, or leave it out with --exclude ${disk}.`,
		});
	}
	const image = path.resolve(file);
	const format = named?.format ?? source?.format;
	if (format === undefined) {
		throw new UsageError(`the format of ${image} is not known, and to guess it from a guest's disk is not safe`, {
			hint: `Say it: --image ${disk}=${file},format=qcow2, or format=raw.`,
		});
	}
	if (format !== 'raw' && format !== 'qcow2') {
		throw new QuiesceError(
			'REFUSED',
			`${disk} is a ${format} disk: only raw and qcow2 can be backed up while the VM is off`,
			{
				hint: `Back it up while the VM runs, or leave it out with --exclude ${disk}.`,
			},
		);
	}
	if (source && source.format !== format && source.inode !== null && source.inode === (await inodeOf(image))) {
		throw new QuiesceError(
			'REFUSED',
			`${image} is a ${source.format} image, as point ${point} knows it, and not ${format}`,
			{
				hint: 'Leave the format out.',
			},
		);
	}
	return {path: image, format};
}
