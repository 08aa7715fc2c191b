import {type CommandLineOption, argumentsOf, optionsOf, parseCommandLine} from '../../host/command-line.ts';
import {type OptionString, optionValue} from '../../host/option-string.ts';
import type {Machine} from '../../repository/machine.ts';

/** A disk as it is to be named in a configuration of Proxmox. */
export interface ProxmoxDisk {
	/** Such as `virtio0`; the archive's device is called `drive-virtio0`. */
	readonly slot: string;
	readonly sizeBytes: number;
}

const MIB = 1024 * 1024;
/** How many of each bus there can be (PVE::QemuServer::Drive). */
const SLOTS: Readonly<Record<string, number>> = {ide: 4, sata: 6, scsi: 31, virtio: 16, efidisk: 1};
/** What PVE takes for `cpu` as it is; others are left to its default. */
const CPU_TYPES = new Set('host max kvm64 kvm32 qemu64 qemu32 x86-64-v2 x86-64-v2-AES x86-64-v3 x86-64-v4'.split(' '));

/**
 * Gives each disk a place on one of Proxmox's buses: as near as can be to what the guest had. `deviceType` is QEMU's. Where a bus is full,
 * or there is none of the kind, the disk goes to SCSI.
 */
export function proxmoxSlots(
	disks: readonly {readonly deviceType: string | null}[],
	machineType: string | null,
): string[] {
	const taken = new Map<string, number>();
	return disks.map(({deviceType}) => {
		const wanted = busOf(deviceType ?? '', machineType ?? '');
		const bus = (taken.get(wanted) ?? 0) < (SLOTS[wanted] ?? 0) ? wanted : 'scsi';
		const index = taken.get(bus) ?? 0;
		taken.set(bus, index + 1);
		return `${bus}${index}`;
	});
}

function busOf(deviceType: string, machineType: string): string {
	if (deviceType.startsWith('virtio-blk')) return 'virtio';
	if (deviceType.startsWith('cfi.pflash')) return 'efidisk';
	if (deviceType.startsWith('ide-')) return machineType.includes('q35') ? 'sata' : 'ide';
	return 'scsi';
}

/** What the archive calls the device of a slot, as vzdump does. */
export function deviceOf(slot: string): string {
	return `drive-${slot}`;
}

/**
 * `qemu-server.conf` for a VM, from what is known of it: enough for `qmrestore`, and to be looked over before the VM is
 * started there. The lines `#qmdump#map` tell it which device of the archive is which disk (PVE::VZDump::QemuServer).
 */
export function proxmoxConfig(machine: Machine, disks: readonly ProxmoxDisk[]): string {
	const line = parseCommandLine(machine.commandLine ?? []);
	const devices = optionsOf(line, 'device');
	const nets = devices.flatMap(device => netOf(device) ?? []);
	const first = disks.find(({slot}) => !slot.startsWith('efidisk'));
	const uuid = machine.uuid;
	const settings: (readonly [string, string] | undefined)[] = [
		hasAgent(devices) ? ['agent', '1'] : undefined,
		disks.some(({slot}) => slot.startsWith('efidisk')) ? ['bios', 'ovmf'] : undefined,
		first && ['boot', `order=${first.slot}`],
		['cores', String(processors(line))],
		cpuOf(line),
		machine.machineType === null ? undefined : ['machine', machine.machineType],
		['memory', String(memoryMib(line))],
		['name', hostName(machine.name)],
		...nets.map((net, index) => [`net${index}`, net] as const),
		['numa', '0'],
		['ostype', 'other'],
		scsiControllerOf(devices, disks),
		uuid === null ? undefined : ['smbios1', `uuid=${uuid}`],
		['sockets', '1'],
		...disks.map(
			({slot, sizeBytes}) => [slot, `local:${deviceOf(slot)},size=${Math.ceil(sizeBytes / 1024)}K`] as const,
		),
	];
	const text = settings.flatMap(setting => (setting ? [`${setting[0]}: ${setting[1]}`] : [])).sort();
	const maps = disks.map(({slot}) => `#qmdump#map:${slot}:${deviceOf(slot)}::raw:`);
	return [...text, ...maps, ''].join('\n');
}

function hasAgent(devices: readonly OptionString[]): boolean {
	return devices.some(device => optionValue(device, 'name') === 'org.qemu.guest_agent.0');
}

/** `-smp 4`, `-smp cpus=4,cores=2`, or only the parts. */
function processors(line: readonly CommandLineOption[]): number {
	const [smp] = optionsOf(line, 'smp').slice(-1);
	const text = argumentsOf(line, 'smp').at(-1) ?? '';
	if (!smp) return 1;
	const leading = /^\d+/.exec(text)?.[0];
	const parts = ['sockets', 'dies', 'clusters', 'cores', 'threads'].map(key => Number(optionValue(smp, key) ?? 1));
	return Number(leading ?? optionValue(smp, 'cpus') ?? parts.reduce((product, part) => product * part, 1)) || 1;
}

/** In MiB; QEMU's own unit where there is none, and QEMU's own default. */
function memoryMib(line: readonly CommandLineOption[]): number {
	const text = argumentsOf(line, 'm').at(-1) ?? '';
	const [size] = optionsOf(line, 'm').slice(-1);
	const found = /^(?<number>\d+(?:\.\d+)?)(?<unit>[kmgt]?)/i.exec((size && optionValue(size, 'size')) ?? text)?.groups;
	const bytes: Readonly<Record<string, number>> = {'k': 1024, '': MIB, 'm': MIB, 'g': 1024 * MIB, 't': MIB * MIB};
	const unit = bytes[found?.['unit']?.toLowerCase() ?? ''] ?? MIB;
	return Math.max(16, Math.round((Number(found?.['number'] ?? 128) * unit) / MIB));
}

function cpuOf(line: readonly CommandLineOption[]): readonly [string, string] | undefined {
	const type = argumentsOf(line, 'cpu').at(-1)?.split(',')[0] ?? '';
	return CPU_TYPES.has(type) ? ['cpu', type] : undefined;
}

/** Without a bridge: which one it is to be on the new host nobody knows. */
function netOf(device: OptionString): string | undefined {
	const driver = optionValue(device, 'driver') ?? '';
	const model = /^virtio-net/.test(driver) ? 'virtio' : /^(e1000e?|rtl8139|vmxnet3)$/.exec(driver)?.[0];
	const mac = optionValue(device, 'mac');
	if (model === undefined || mac === undefined || !/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(mac)) return undefined;
	return `${model}=${mac.toUpperCase()},link_down=1`;
}

function scsiControllerOf(
	devices: readonly OptionString[],
	disks: readonly ProxmoxDisk[],
): readonly [string, string] | undefined {
	if (!disks.some(({slot}) => slot.startsWith('scsi'))) return undefined;
	const drivers = devices.map(device => optionValue(device, 'driver') ?? '');
	if (drivers.includes('lsi53c895a') || drivers.includes('lsi')) return ['scsihw', 'lsi'];
	return ['scsihw', 'virtio-scsi-pci'];
}

/** PVE wants a DNS name. */
function hostName(name: string): string {
	const words = name.replaceAll(/[^A-Za-z0-9-]+/g, '-').replaceAll(/^-+|-+$/g, '');
	return words === '' ? 'vm' : words.slice(0, 63);
}
