import {randomUUID} from 'node:crypto';
import {UsageError} from '../../errors.ts';
import type {Machine} from '../../repository/machine.ts';
import {formatDocument} from '../../repository/document.ts';
import type {VmaConfig, VmaDevice} from '../../vma/header.ts';
import {VmaWriter} from '../../vma/writer.ts';
import {namesConfig} from './archived-names.ts';
import {type ArchiveOutput, openArchiveOutput} from './archive-output.ts';
import type {ArchiveWishes, ExportedDisk} from './export-messages.ts';
import {deviceOf, proxmoxConfig, proxmoxSlots} from './proxmox-config.ts';

export const MACHINE_CONFIG = 'machine.json';
export const PROXMOX_CONFIG = 'qemu-server.conf';

/** What an archive is to have in it. */
export interface ArchiveContent {
	readonly machine: Machine;
	/** When the disks were so; now if not given. */
	readonly createdAt?: Date | undefined;
	readonly disks: readonly {readonly name: string; readonly sizeBytes: number; readonly deviceType: string | null}[];
}

export interface OpenArchive {
	readonly writer: VmaWriter;
	/** In the order of the disks. */
	readonly devices: readonly VmaDevice[];
	readonly output: ArchiveOutput;
}

/** Which device of the archive each disk becomes. */
export function exportedDisks({machine, disks}: ArchiveContent): ExportedDisk[] {
	const slots = proxmoxSlots(disks, machine.machineType);
	return disks.map(({name, sizeBytes}, index) => ({name, device: deviceOf(slots[index] ?? ''), sizeBytes}));
}

/** Begins an archive: its header goes out at once. Whoever opens it finishes or abandons its output. */
export async function openArchive(content: ArchiveContent, wishes: ArchiveWishes): Promise<OpenArchive> {
	const devices = exportedDisks(content).map(({device, sizeBytes}, index): VmaDevice => ({
		id: index + 1,
		name: device,
		sizeBytes,
	}));
	const header = {
		uuid: randomUUID(),
		createdSeconds: Math.floor((content.createdAt?.getTime() ?? Date.now()) / 1000),
		configs: configsFor(content, wishes),
		devices,
	};
	const output = await openArchiveOutput(wishes.target, wishes.compression);
	try {
		return {writer: new VmaWriter({header, output: output.archive, index: output.index}), devices, output};
	} catch (error) {
		await output.abandon();
		throw error;
	}
}

function configsFor({machine, disks}: ArchiveContent, {config}: ArchiveWishes): VmaConfig[] {
	const slots = proxmoxSlots(disks, machine.machineType);
	const placed = disks.map(({sizeBytes}, index) => ({slot: slots[index] ?? '', sizeBytes}));
	if (config !== undefined) requireMaps(config, slots);
	return [
		{name: PROXMOX_CONFIG, data: Buffer.from(config ?? proxmoxConfig(machine, placed))},
		{name: MACHINE_CONFIG, data: Buffer.from(formatDocument(machine))},
		namesConfig(exportedDisks({machine, disks})),
	];
}

/** `qmrestore` fails on an archive with a device that no line maps, and so only when it is needed. */
function requireMaps(config: string, slots: readonly string[]): void {
	const mapped = [...config.matchAll(/^#qmdump#map:[^:\s]+:(?<device>[^:\s]+):/gm)].map(
		({groups}) => groups?.['device'] ?? '',
	);
	const devices = slots.map(deviceOf);
	const missing = devices.filter(device => !mapped.includes(device));
	const strange = mapped.filter(device => !devices.includes(device));
	if (missing.length + strange.length === 0) return;
	throw new UsageError(
		'--config: its lines #qmdump#map do not go with the devices of the archive: ' +
			[...missing.map(device => `${device} is missing`), ...strange.map(device => `there is no ${device}`)].join(', '),
		{hint: `One line for each, such as #qmdump#map:${slots[0] ?? ''}:${devices[0] ?? ''}::raw:`},
	);
}
