import {BlockGraphError} from './errors.ts';

/** What QEMU has to tell a disk by. */
export interface DiskIdentity {
	/** The device's id, or its QOM path. */
	readonly qdev?: string | undefined;
	/** The name of the backend; empty for `-blockdev` disks. */
	readonly device: string;
}

export interface DiskName {
	readonly name: string;
	readonly fileName: string;
}

/** Leaves room for `.qcow2.partial` and the like within the 255 bytes of a file name. */
const FILE_NAME_LENGTH = 200;

/**
 * Names that are the same before and during jobs and after a restart: the device's id, else the drive's, else the QOM
 * path. Two disks may want one name, since QEMU keeps ids of devices and of drives apart: the id of a device wins.
 */
export function nameDisks(disks: readonly DiskIdentity[]): DiskName[] {
	const names = new Map<DiskIdentity, string>();
	const taken = new Set<string>();
	for (const [disk, candidates] of byRank(disks)) {
		const name = candidates.find(candidate => !taken.has(candidate));
		if (name === undefined)
			throw new BlockGraphError(`two disks are called ${disk.qdev ?? JSON.stringify(disk.device)}`);
		names.set(disk, name);
		taken.add(name);
	}
	const takenFileNames = new Set<string>();
	return disks.map(disk => {
		const name = names.get(disk) ?? '';
		return {name, fileName: fileNameOf(name, takenFileNames)};
	});
}

/** Each disk with the names it would take, best first; the disks with the best claims first. */
function byRank(disks: readonly DiskIdentity[]): [DiskIdentity, string[]][] {
	return disks
		.map(disk => {
			const names = [idOf(disk.qdev), driveOf(disk.device), disk.qdev?.replace(/^\/machine\//, ''), disk.qdev];
			return {disk, names, rank: names.findIndex(name => name !== undefined)};
		})
		.sort((a, b) => a.rank - b.rank)
		.map(
			({disk, names}) => [disk, names.filter(name => name !== undefined && name !== '')] as [DiskIdentity, string[]],
		);
}

/** `vda` of `/machine/peripheral/vda/virtio-backend`: devices with an id live there. */
function idOf(qdev: string | undefined): string | undefined {
	if (qdev === undefined || !qdev.startsWith('/')) return qdev;
	return /^\/machine\/peripheral\/([^/]+)/.exec(qdev)?.[1];
}

/** QEMU's own names begin with `#` and have random digits. */
function driveOf(device: string): string | undefined {
	return device === '' || device.startsWith('#') ? undefined : device;
}

/** Unlike in small letters too: not every file system of a repository tells them apart. */
function fileNameOf(name: string, taken: Set<string>): string {
	const safe = name
		.replaceAll(/[^A-Za-z0-9._-]/g, '_')
		.replace(/^[.-]/, '_')
		.slice(0, FILE_NAME_LENGTH);
	let fileName = safe;
	for (let number = 2; taken.has(fileName.toLowerCase()); number++) fileName = `${safe}_${number}`;
	taken.add(fileName.toLowerCase());
	return fileName;
}
