import * as v from 'valibot';
import type {VmaConfig, VmaDevice, VmaHeader} from '../../vma/header.ts';
import {formatDocument} from '../../repository/document.ts';

/** Tells which disk each device of an archive was. */
const NAMES_CONFIG = 'quiesce.json';
const NAMES_FORMAT = 1;

const schema = v.looseObject({
	format: v.literal(NAMES_FORMAT),
	disks: v.array(v.looseObject({name: v.string(), device: v.string()})),
});

/** The names of an archive's disks. */
export interface ArchivedNames {
	/** As the VM has it; of an archive that is not ours what it calls the device, without `drive-`. */
	readonly diskOf: (device: VmaDevice) => string;
	/** A plain name for a file, without extension; no two devices have the same. */
	readonly fileOf: (device: VmaDevice) => string;
}

export function namesConfig(disks: readonly {readonly name: string; readonly device: string}[]): VmaConfig {
	const names = disks.map(({name, device}) => ({name, device}));
	return {name: NAMES_CONFIG, data: Buffer.from(formatDocument({format: NAMES_FORMAT, disks: names}))};
}

export function archivedNames({configs, devices}: VmaHeader): ArchivedNames {
	const disks = new Map<string, string>();
	const document = configs.find(({name}) => name === NAMES_CONFIG);
	for (const {name, device} of document ? parseNames(document.data.toString()) : []) disks.set(device, name);
	const diskOf = ({name}: VmaDevice): string => disks.get(name) ?? name.replace(/^drive-/, '');
	return {
		diskOf,
		fileOf: device => {
			const disk = diskOf(device);
			const isPlain = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,200}$/.test(disk);
			const isUnique = devices.filter(other => diskOf(other).toLowerCase() === disk.toLowerCase()).length === 1;
			return isPlain && isUnique ? disk : `device-${device.id}`;
		},
	};
}

/** What cannot be read only costs the names. */
function parseNames(text: string): readonly {readonly name: string; readonly device: string}[] {
	try {
		const parsed = v.safeParse(schema, JSON.parse(text));
		return parsed.success ? parsed.output.disks : [];
	} catch {
		return [];
	}
}
