import {type OptionString, parseOptionString} from './option-string.ts';
import {redactArgument} from './secrets.ts';

/** One option of QEMU's command line, or a disk image that stands alone (without a flag). */
export interface CommandLineOption {
	/** As written, with its dashes. */
	readonly flag: string | undefined;
	/** Undefined for an option that takes none. */
	readonly value: string | undefined;
}

/** The options without an argument, of QEMU 4.2 to 11.1 on any target. All others take exactly one. */
const WITHOUT_ARGUMENT = new Set(
	`S alt-grab async-teardown audio-help ctrl-grab curses daemonize enable-fips enable-kvm enable-sync-profile
	full-screen h help localtime mem-prealloc no-acpi no-fd-bootchk no-frame no-hpet no-kvm no-kvm-irqchip no-kvm-pit
	no-kvm-pit-reinjection no-quit no-reboot no-shutdown no-user-config nodefaults nodefconfig nographic old-param
	one-insn-per-tb only-migratable portrait preconfig s sdl semihosting show-cursor singlestep snapshot tdf usb version
	win2k-hack xen-attach xen-create xen-domid-restrict`.split(/\s+/),
);

/** Which key a leading value without one belongs to. */
const IMPLIED_KEYS: Readonly<Record<string, string>> = {
	M: 'type',
	audiodev: 'driver',
	blockdev: 'driver',
	chardev: 'backend',
	device: 'driver',
	display: 'type',
	fsdev: 'fsdriver',
	machine: 'type',
	mon: 'chardev',
	name: 'guest',
	netdev: 'type',
	object: 'qom-type',
	vnc: 'vnc',
};

/** Reads QEMU's arguments, without `argv[0]`. */
export function parseCommandLine(args: readonly string[]): CommandLineOption[] {
	const options: CommandLineOption[] = [];
	for (let index = 0; index < args.length; index++) {
		const word = args[index] ?? '';
		if (!word.startsWith('-')) options.push({flag: undefined, value: word});
		else if (WITHOUT_ARGUMENT.has(nameOf(word))) options.push({flag: word, value: undefined});
		else options.push({flag: word, value: args[++index]});
	}
	return options;
}

/** The inverse of {@link parseCommandLine}. */
export function printCommandLine(options: readonly CommandLineOption[]): string[] {
	return options.flatMap(printOption);
}

/**
 * QEMU's arguments, with or without `argv[0]`, with inline secrets replaced by `REDACTED`: secret objects' data,
 * passwords, cookies, and passwords and keys inside image URLs. All else stays byte by byte. References to secrets
 * (`password-secret=sec0`) are no secrets.
 */
export function redactSecrets(args: readonly string[]): string[] {
	return printCommandLine(
		parseCommandLine(args).map(option => {
			const {flag, value} = option;
			const name = optionName(option);
			return value === undefined ? option : {flag, value: redactArgument(name, value, impliedKeyOf(name))};
		}),
	);
}

/** The words of one option. */
export function printOption({flag, value}: CommandLineOption): string[] {
	return [flag, value].filter(word => word !== undefined);
}

/** The option's name without dashes; undefined for an image that stands alone. */
export function optionName(option: CommandLineOption): string | undefined {
	return option.flag === undefined ? undefined : nameOf(option.flag);
}

function nameOf(flag: string): string {
	return flag.replace(/^--?/, '');
}

/** The option's argument, read with the key that its leading value stands for. */
export function parseOption(option: CommandLineOption): OptionString {
	return parseOptionString(option.value ?? '', impliedKeyOf(optionName(option)));
}

function impliedKeyOf(name: string | undefined): string | undefined {
	return name !== undefined && Object.hasOwn(IMPLIED_KEYS, name) ? IMPLIED_KEYS[name] : undefined;
}

/** The arguments of all options of these names, in their order. */
export function argumentsOf(options: readonly CommandLineOption[], ...names: readonly string[]): string[] {
	return optionsNamed(options, names).flatMap(option => option.value ?? []);
}

/** As {@link argumentsOf}, each read as an option string. */
export function optionsOf(options: readonly CommandLineOption[], ...names: readonly string[]): OptionString[] {
	return optionsNamed(options, names).map(parseOption);
}

function optionsNamed(options: readonly CommandLineOption[], names: readonly string[]): CommandLineOption[] {
	return options.filter(option => names.includes(optionName(option) ?? ''));
}
