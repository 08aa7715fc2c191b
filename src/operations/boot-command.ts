import path from 'node:path';
import {
	type CommandLineOption,
	optionName,
	optionsOf,
	parseCommandLine,
	parseOption,
	printCommandLine,
	printOption,
} from '../host/command-line.ts';
import {commandLineFacts} from '../host/command-line-facts.ts';
import {expandShortForm} from '../host/drive-options.ts';
import {findImages, type ImageOption} from '../host/image-options.ts';
import {editOption, setItem, textAt, textsOf} from '../host/option-items.ts';
import {optionValue, printOptionString} from '../host/option-string.ts';
import {replaceImage} from '../host/replace-image.ts';
import {shellQuote} from '../host/shell.ts';

/** What a point knows of its machine; a part of machine.json. */
export interface RecordedMachine {
	readonly name: string;
	/** With its version, such as `pc-q35-7.2`. */
	readonly machineType: string | null;
	readonly binary: string | null;
	/** Without `argv[0]`; null if it could not be read. */
	readonly commandLine: readonly string[] | null;
	readonly disks: readonly RecordedDisk[];
}

interface RecordedDisk {
	readonly name: string;
	readonly filename: string | null;
	readonly format: string;
	readonly nodeNames: readonly string[];
}

export interface RestoredFile {
	/** The disk's name. */
	readonly disk: string;
	readonly path: string;
	readonly format: string;
}

export interface BootCommand {
	readonly argv: readonly string[];
	/** For people: what to know or to do before it is run. */
	readonly notes: readonly string[];
}

interface Draft {
	readonly options: readonly CommandLineOption[];
	readonly notes: readonly string[];
}

const COLUMNS = 80;

/** The command that starts the VM from restored files. Pure: looks at no file. */
export function bootCommand(machine: RecordedMachine, restored: readonly RestoredFile[]): BootCommand {
	const binary = machine.binary ?? 'qemu-system-x86_64';
	const {options, notes} =
		machine.commandLine === null
			? genericCommand(machine, restored)
			: recordedCommand(machine, argumentsOf(machine.commandLine, binary), restored);
	const guessed = machine.binary === null ? [`the QEMU binary was not recorded: ${binary} is a guess`] : [];
	return {argv: [binary, ...printCommandLine(options)], notes: [...guessed, ...notes]};
}

/** The command as text for a POSIX shell, one option a line, in 80 columns where its words allow. */
export function formatBootCommand(argv: readonly string[]): string {
	const [binary = '', ...args] = argv;
	const lines = parseCommandLine(args).flatMap(option => {
		const words = printOption(option).map(shellQuote);
		// Two columns for the backslash.
		return words.join(' ').length + 2 <= COLUMNS - 2
			? [`  ${words.join(' ')}`]
			: words.map((word, at) => (at === 0 ? '  ' : '    ') + word);
	});
	// A leading word with `=` would be an assignment.
	const first = binary.includes('=') && shellQuote(binary) === binary ? `'${binary}'` : shellQuote(binary);
	return [first, ...lines].join(' \\\n');
}

function argumentsOf(commandLine: readonly string[], binary: string): readonly string[] {
	return commandLine[0] === binary ? commandLine.slice(1) : commandLine;
}

function genericCommand({name, machineType}: RecordedMachine, restored: readonly RestoredFile[]): Draft {
	const drive = ({path: file, format}: RestoredFile): CommandLineOption => ({
		flag: '-drive',
		value: printOptionString({
			syntax: 'pairs',
			items: [
				{key: 'file', value: /^[^/]*:/.test(file) ? `./${file}` : file, form: 'pair'},
				{key: 'format', value: format, form: 'pair'},
				{key: 'if', value: 'virtio', form: 'pair'},
			],
		}),
	});
	return {
		options: [
			{flag: '-name', value: printOptionString({syntax: 'pairs', items: [{key: 'guest', value: name, form: 'pair'}]})},
			...(machineType === null ? [] : [{flag: '-machine', value: machineType}]),
			...restored.map(drive),
		],
		notes: [
			"the VM's command line was not recorded: this is a generic one; add memory (-m), processors (-smp), firmware, " +
				'network and monitor, and the bus of the disks if the guest has no virtio',
			...(machineType === null ? ['the machine type was not recorded either: add -machine'] : []),
		],
	};
}

function recordedCommand(machine: RecordedMachine, args: readonly string[], restored: readonly RestoredFile[]): Draft {
	const original = parseCommandLine(args);
	const {options: replaced, notes: replacing} = withRestored(original, machine, restored);
	const {options: connected, notes: unlinking} = withoutOrphans(original, replaced);
	const {options: kept, notes: incoming} = withoutIncoming(connected);
	const {options, notes: typing} = withMachineType(kept, machine.machineType);
	return {options, notes: [...replacing, ...unlinking, ...incoming, ...typing, ...cautions(options)]};
}

function withRestored(
	original: readonly CommandLineOption[],
	machine: RecordedMachine,
	restored: readonly RestoredFile[],
): Draft {
	const expanded = original.map(expandShortForm);
	let options: readonly CommandLineOption[] = expanded;
	const notes: string[] = [];
	const images = matchImages(findImages(expanded, machine.machineType), machine.disks, restored);
	for (const file of restored) {
		const image = images.get(file.disk);
		const recorded = machine.disks.find(({name}) => name === file.disk);
		const edited = image && replaceImage(options, image, file, recorded?.format ?? '');
		if (edited && countKeys(edited) < countKeys(options)) {
			notes.push(`disk ${file.disk} was encrypted; ${file.path} is not`);
		}
		if (edited) options = edited;
		else
			notes.push(
				`disk ${file.disk} is not on the command line in a known way: add ${file.path} (${file.format}) by hand`,
			);
	}
	for (const {name, filename} of machine.disks) {
		if (restored.some(({disk}) => disk === name)) continue;
		notes.push(`disk ${name} was not restored: the command still uses ${filename ?? 'what it had'}`);
	}
	// What was expanded and then left alone stays as it was written.
	return {options: options.map((option, at) => (option === expanded[at] ? (original[at] ?? option) : option)), notes};
}

/** The options that decrypt images. */
function countKeys(options: readonly CommandLineOption[]): number {
	return optionsOf(options, 'drive', 'blockdev')
		.flatMap(({items}) => items)
		.filter(({key}) => /(?:^|\.)key-secret$/.test(key)).length;
}

/**
 * Which image each disk is. Names come first: after a live snapshot the command line has the name of an older file than
 * the one the disk was in.
 */
function matchImages(
	images: readonly ImageOption[],
	disks: readonly RecordedDisk[],
	restored: readonly RestoredFile[],
): ReadonlyMap<string, ImageOption> {
	const all = [
		...disks,
		...restored
			.filter(({disk}) => !disks.some(({name}) => name === disk))
			.map(({disk}) => ({name: disk, filename: null, nodeNames: []})),
	];
	const tests: ((disk: (typeof all)[number], image: ImageOption) => boolean)[] = [
		({name}, {deviceIds}) => deviceIds.includes(name),
		({name}, {names}) => names.includes(name),
		({nodeNames}, {names}) => nodeNames.some(name => names.includes(name)),
		({filename}, image) =>
			filename !== null && image.filename !== undefined && path.normalize(filename) === path.normalize(image.filename),
		({name, nodeNames}, {ownName}) => ownName !== undefined && [name, ...nodeNames].includes(ownName),
	];
	const matched = new Map<string, ImageOption>();
	const free = new Set(images);
	for (const test of tests) {
		for (const disk of all) {
			if (matched.has(disk.name)) continue;
			const image = [...free].find(candidate => test(disk, candidate));
			if (!image) continue;
			matched.set(disk.name, image);
			free.delete(image);
		}
	}
	return matched;
}

/** Nodes of backing files and the like that nothing refers to any more: their files need not exist. */
function withoutOrphans(original: readonly CommandLineOption[], options: readonly CommandLineOption[]): Draft {
	const wasUsed = usedNames(original);
	let kept = options;
	const notes: string[] = [];
	for (;;) {
		const used = usedNames(kept);
		const orphans = kept.filter(option => {
			const name = nodeName(option);
			return name !== undefined && wasUsed.has(name) && !used.has(name);
		});
		if (orphans.length === 0) return {options: kept, notes};
		kept = kept.filter(option => !orphans.includes(option));
		notes.push(
			...orphans
				.flatMap(nodeNameOrNone)
				.map(name => `-blockdev ${name} is left out: the restored files do not need it`),
		);
	}
}

function nodeName(option: CommandLineOption): string | undefined {
	return optionName(option) === 'blockdev' ? textAt(parseOption(option).items, 'node-name') : undefined;
}

function nodeNameOrNone(option: CommandLineOption): string[] {
	const name = nodeName(option);
	return name === undefined ? [] : [name];
}

function usedNames(options: readonly CommandLineOption[]): ReadonlySet<string> {
	return new Set(
		options.flatMap(option => textsOf(parseOption(option).items.filter(({key}) => !/(?:^|\.)node-name$/.test(key)))),
	);
}

/** They would load a state that is not there: that of another host's VM, or of a snapshot inside the old images. */
function withoutIncoming(options: readonly CommandLineOption[]): Draft {
	const dropped = options.filter(option => ['incoming', 'loadvm'].includes(optionName(option) ?? ''));
	return {
		options: options.filter(option => !dropped.includes(option)),
		notes: dropped.map(option => `${printOption(option).join(' ')} is left out: the VM starts afresh`),
	};
}

/** An alias such as `q35` means another machine in the next QEMU. */
function withMachineType(options: readonly CommandLineOption[], recorded: string | null): Draft {
	const isMachine = (option: CommandLineOption): boolean => ['machine', 'M'].includes(optionName(option) ?? '');
	const index = options.findLastIndex(
		option => isMachine(option) && optionValue(parseOption(option), 'type') !== undefined,
	);
	const named = options[index] && optionValue(parseOption(options[index]), 'type');
	if (recorded === null) return {options, notes: ['the exact machine type was not recorded: check -machine']};
	if (named === undefined) return {options: [{flag: '-machine', value: recorded}, ...options], notes: []};
	if (named === recorded) return {options, notes: []};
	if (!isAlias(named, recorded)) {
		return {options, notes: [`the machine type is ${named} on the command line, but QEMU called it ${recorded}`]};
	}
	return {options: editOption(options, index, items => setItem(items, 'type', recorded)), notes: []};
}

function isAlias(named: string, type: string): boolean {
	if (named === 'pc') return type.startsWith('pc-i440fx-');
	return type.startsWith(`${named}-`) || type.startsWith(`pc-${named}-`);
}

function cautions(options: readonly CommandLineOption[]): string[] {
	const has = (name: string): boolean => options.some(option => optionName(option) === name);
	const texts = options.flatMap(({value}) => value ?? []);
	const {unixSockets} = commandLineFacts(options);
	return [
		...(texts.some(text => /REDACTED/.test(text))
			? ['secrets were not recorded: replace REDACTED by their values']
			: []),
		...(hasDescriptors(options)
			? ['some options use descriptors that were passed to the old process (fd=…): replace them']
			: []),
		...(unixSockets.length > 0
			? [`stop the old VM first: this one takes over its sockets (${unixSockets.join(', ')})`]
			: []),
		...(has('S') ? ['-S is kept: the VM waits for `cont` on its monitor'] : []),
		...(has('snapshot') ? ['-snapshot is kept: what the guest writes is lost when it ends'] : []),
	];
}

const DESCRIPTOR_KEYS = new Set(['fd', 'fds', 'vhostfd', 'vhostfds']);

function hasDescriptors(options: readonly CommandLineOption[]): boolean {
	return (
		optionsOf(options, 'add-fd').length > 0 ||
		optionsOf(options, 'chardev', 'netdev', 'device', 'blockdev', 'drive', 'object', 'vnc').some(({items}) =>
			items.some(
				({key, value}) => DESCRIPTOR_KEYS.has(key) || (typeof value === 'string' && value.startsWith('/dev/fdset/')),
			),
		)
	);
}
