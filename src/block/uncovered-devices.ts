import type {QmpConnection} from '../qmp/connection.ts';

/** A device that keeps data where QEMU's block layer, and so a backup of the disks, never sees it. */
export interface UncoveredDevice {
	/** Its id, else its QOM path without `/machine/`. */
	readonly name: string;
	/** The QOM type. */
	readonly type: string;
	/** What it is, for the operator. */
	readonly what: string;
}

/** A folder of QOM objects, as `qom-list` tells it. */
export interface DeviceFolder {
	readonly path: string;
	readonly properties: readonly {readonly name: string; readonly type: string}[];
}

const OUTSIDE: readonly {readonly type: RegExp; readonly what: string}[] = [
	{type: /^vfio-/, what: 'a device of the host, given to the guest whole; it may be storage, such as an NVMe disk'},
	{type: /^vhost-user-blk/, what: 'a disk served by another process'},
	{type: /^vhost(-user)?-scsi/, what: 'SCSI disks served by the host kernel or by another process'},
	{type: /^vhost-vdpa-device/, what: 'a vDPA device of the host; it may be a disk'},
	{type: /^vhost-user-fs/, what: 'a folder of the host, shared through virtiofs'},
	{type: /^virtio-9p/, what: 'a folder of the host, shared through 9p'},
	{type: /^usb-mtp$/, what: 'a folder of the host, shared through MTP'},
	{type: /^(nvdimm|virtio-pmem|cxl-type3)/, what: 'persistent memory, kept in a file of the host'},
	{type: /^uefi-vars/, what: "the firmware's variables, kept in a file of the host"},
	{type: /^tpm-/, what: 'a TPM, whose state is kept by the TPM emulator'},
];

const DEVICE_FOLDERS = ['/machine/peripheral', '/machine/peripheral-anon'];

/** The devices of these folders that no backup covers. */
export function uncoveredDevices(folders: readonly DeviceFolder[]): UncoveredDevice[] {
	return folders.flatMap(({path, properties}) =>
		properties.flatMap(property => {
			const type = /^child<(.+)>$/.exec(property.type)?.[1];
			const kind = type === undefined ? undefined : OUTSIDE.find(known => known.type.test(type));
			if (type === undefined || !kind) return [];
			const name = path === '/machine/peripheral' ? property.name : `${path}/${property.name}`.replace('/machine/', '');
			return [{name, type, what: kind.what}];
		}),
	);
}

export async function readUncoveredDevices(qmp: Pick<QmpConnection, 'execute'>): Promise<UncoveredDevice[]> {
	const folders = DEVICE_FOLDERS.map(async path => ({path, properties: await qmp.execute('qom-list', {path})}));
	return uncoveredDevices(await Promise.all(folders));
}
