import {type CommandLineOption, optionName, parseOption} from './command-line.ts';
import {type OptionItem, printOptionString} from './option-string.ts';
import {textAt} from './option-items.ts';

/** What the short forms stand for (QEMU's system/vl.c). The file is the argument. */
const SHORT_FORMS = new Map<string | undefined, string>([
	[undefined, 'index=0,media=disk'],
	['hda', 'index=0,media=disk'],
	['hdb', 'index=1,media=disk'],
	['hdc', 'index=2,media=disk'],
	['hdd', 'index=3,media=disk'],
	['cdrom', 'index=2,media=cdrom'],
	['fda', 'if=floppy,index=0'],
	['fdb', 'if=floppy,index=1'],
	['pflash', 'if=pflash'],
	['mtdblock', 'if=mtd'],
	['sd', 'if=sd'],
]);

/** A short form (`-hda FILE`, or the file alone) as `-drive`; any other option as it is. */
export function expandShortForm(option: CommandLineOption): CommandLineOption {
	const meaning = SHORT_FORMS.get(optionName(option));
	if (meaning === undefined || option.value === undefined) return option;
	const file = printOptionString({syntax: 'pairs', items: [{key: 'file', value: option.value, form: 'pair'}]});
	return {flag: '-drive', value: `${meaning},${file}`};
}

/**
 * The names that QEMU gives to drives without an id, such as `virtio0` or `ide0-hd1` (blockdev.c, drive_new), by their
 * place among `options`. `machineType` tells how many disks a bus of it has.
 */
export function nameDrives(
	options: readonly CommandLineOption[],
	machineType: string | null,
): ReadonlyMap<number, string> {
	const taken = new Set<string>();
	const names = new Map<number, string>();
	for (const [index, option] of options.entries()) {
		if (optionName(option) !== 'drive') continue;
		const {items} = parseOption(option);
		const name = nextName(items, taken, machineType);
		taken.add(name.replace('-cd', '-hd'));
		if (textAt(items, 'id') === undefined) names.set(index, name);
	}
	return names;
}

function nextName(items: readonly OptionItem[], taken: ReadonlySet<string>, machineType: string | null): string {
	const type = textAt(items, 'if') ?? 'ide';
	const perBus = unitsPerBus(type, machineType);
	const media = perBus === 0 ? '' : textAt(items, 'media') === 'cdrom' ? '-cd' : '-hd';
	const nameAt = (place: number): string => {
		if (perBus === 0) return `${type}${place}`;
		return `${type}${Math.floor(place / perBus)}${media}${place % perBus}`;
	};
	const index = numberAt(items, 'index');
	if (index !== undefined) return nameAt(index);
	const bus = (numberAt(items, 'bus') ?? 0) * perBus;
	const unit = numberAt(items, 'unit');
	if (unit !== undefined) return nameAt(bus + unit);
	let place = bus;
	while (taken.has(nameAt(place).replace('-cd', '-hd'))) place++;
	return nameAt(place);
}

/** 0 where buses are not counted. */
function unitsPerBus(type: string, machineType: string | null): number {
	if (type === 'scsi') return 7;
	if (type !== 'ide') return 0;
	return machineType?.includes('q35') ? 1 : 2;
}

function numberAt(items: readonly OptionItem[], key: string): number | undefined {
	const text = textAt(items, key);
	return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}
