import {type DriverKind, kindOfDriver} from './block-drivers.ts';
import {type CommandLineOption, optionName, parseOption} from './command-line.ts';
import {nameDrives} from './drive-options.ts';
import type {OptionItem} from './option-string.ts';
import {textAt} from './option-items.ts';

/** A block node among the options: the option's index, and the prefix of its keys there, such as `file.`. */
interface NodePlace {
	readonly option: number;
	readonly prefix: string;
}

/** One disk image on a command line. */
export interface ImageOption {
	readonly deviceIds: readonly string[];
	/** Of the drive and of its nodes, those above the image too. */
	readonly names: readonly string[];
	/** The name QEMU gives to a drive that was given none. */
	readonly ownName: string | undefined;
	readonly filename: string | undefined;
	readonly where:
		| ({readonly kind: 'drive'} & NodePlace)
		/** From the outermost format to the storage. A storage alone is what the guest sees, byte by byte. */
		| {readonly kind: 'blockdev'; readonly nodes: readonly NodePlace[]};
}

interface Node extends NodePlace {
	readonly name: string | undefined;
	readonly kind: DriverKind;
	readonly filename: string | undefined;
	/** Its `file` child: the name of a node, or the prefix of one inside the same option. */
	readonly file: {readonly name: string} | {readonly prefix: string} | undefined;
}

/** The images of `-drive` and `-blockdev` options, those of backing files too. Short forms must be expanded before. */
export function findImages(options: readonly CommandLineOption[], machineType: string | null): ImageOption[] {
	return [...driveImages(options, machineType), ...blockdevImages(options)];
}

function driveImages(options: readonly CommandLineOption[], machineType: string | null): ImageOption[] {
	const ownNames = nameDrives(options, machineType);
	return options.flatMap((option, index): ImageOption[] => {
		if (optionName(option) !== 'drive') return [];
		const {items} = parseOption(option);
		const prefix = belowFilters(items);
		const names = ['id', 'node-name', `${prefix}node-name`, `${prefix}file.node-name`].flatMap(
			key => textAt(items, key) ?? [],
		);
		return [
			{
				names,
				ownName: ownNames.get(index),
				deviceIds: devicesOn(options, names),
				filename: textAt(items, `${prefix}file`) ?? textAt(items, `${prefix}file.filename`),
				where: {kind: 'drive', option: index, prefix},
			},
		];
	});
}

function belowFilters(items: readonly OptionItem[]): string {
	let prefix = '';
	while (kindOfDriver(textAt(items, `${prefix}driver`) ?? '') === 'filter') prefix += 'file.';
	return prefix;
}

function blockdevImages(options: readonly CommandLineOption[]): ImageOption[] {
	const nodes = options.flatMap(nodesOf);
	return nodes
		.filter(node => node.kind === 'storage')
		.filter(({name, prefix}) => !prefix.endsWith('data-file.') && !isDataFile(options, name))
		.map(storage => {
			const chain = chainAbove(storage, nodes);
			const outermost = chain.findLastIndex(({kind}) => kind === 'format');
			const names = chain.flatMap(({name}) => name ?? []);
			return {
				names,
				ownName: undefined,
				deviceIds: devicesOn(options, names),
				filename: storage.filename,
				where: {
					kind: 'blockdev' as const,
					nodes: chain
						.slice(0, Math.max(outermost, 0) + 1)
						.filter(({kind}) => kind !== 'filter')
						.reverse(),
				},
			};
		});
}

/** The node, its parent, and so on to the top, by `file` links only: a backing file is another image. */
function chainAbove(storage: Node, nodes: readonly Node[]): Node[] {
	const chain = [storage];
	for (;;) {
		const child = chain.at(-1);
		const parent = nodes.find(node => child && !chain.includes(node) && isFileOf(child, node));
		if (!parent) return chain;
		chain.push(parent);
	}
}

function isFileOf(child: Node, {file, option}: Node): boolean {
	if (file === undefined) return false;
	return 'name' in file ? file.name === child.name : option === child.option && file.prefix === child.prefix;
}

function nodesOf(option: CommandLineOption, index: number): Node[] {
	if (optionName(option) !== 'blockdev') return [];
	const {items} = parseOption(option);
	return items.flatMap(({key, value}) => {
		if (typeof value !== 'string' || !/(?:^|\.)driver$/.test(key)) return [];
		const prefix = key.slice(0, -'driver'.length);
		const file = textAt(items, `${prefix}file`);
		return {
			option: index,
			prefix,
			name: textAt(items, `${prefix}node-name`),
			kind: kindOfDriver(value),
			filename: textAt(items, `${prefix}filename`),
			file: file === undefined ? {prefix: `${prefix}file.`} : {name: file},
		};
	});
}

function isDataFile(options: readonly CommandLineOption[], name: string | undefined): boolean {
	return options
		.filter(option => optionName(option) === 'blockdev')
		.some(option => name !== undefined && textAt(parseOption(option).items, 'data-file') === name);
}

function devicesOn(options: readonly CommandLineOption[], names: readonly string[]): string[] {
	return options.flatMap(option => {
		if (optionName(option) !== 'device') return [];
		const {items} = parseOption(option);
		return names.includes(textAt(items, 'drive') ?? '') ? (textAt(items, 'id') ?? []) : [];
	});
}
