import {type CommandLineOption, parseOption} from './command-line.ts';
import {type JsonValue, type OptionItem, printOptionString} from './option-string.ts';

/** `items` with the value set: where the key stands already, else at the end. */
export function setItem(items: readonly OptionItem[], key: string, value: string): OptionItem[] {
	const index = items.findLastIndex(item => item.key === key);
	if (index < 0) return [...items, {key, value, form: 'pair'}];
	return items.map((item, at) => (at === index ? {...item, value} : item));
}

/** `items` without those under `prefix` that `isDropped`, which is given the rest of the key. */
export function dropItems(
	items: readonly OptionItem[],
	prefix: string,
	isDropped: (key: string) => boolean,
): OptionItem[] {
	return items.filter(({key}) => !key.startsWith(prefix) || !isDropped(key.slice(prefix.length)));
}

/** The text at a key; undefined also where it is no text. */
export function textAt(items: readonly OptionItem[], key: string): string | undefined {
	const value = items.findLast(item => item.key === key)?.value;
	return typeof value === 'string' ? value : undefined;
}

/** `options` with one of them printed anew, if `edit` changed it. */
export function editOption(
	options: readonly CommandLineOption[],
	index: number,
	edit: (items: readonly OptionItem[]) => readonly OptionItem[],
): CommandLineOption[] {
	return options.map((option, at) => {
		if (at !== index) return option;
		const {syntax, items} = parseOption(option);
		return {flag: option.flag, value: printOptionString({syntax, items: edit(items)})};
	});
}

/** Every text in the values, those in arrays too: what may be the name of something else on the command line. */
export function textsOf(items: readonly OptionItem[]): string[] {
	return items.flatMap(({value}) => textsIn(value));
}

function textsIn(value: JsonValue): string[] {
	if (typeof value === 'string') return [value];
	return typeof value === 'object' && value !== null ? Object.values(value).flatMap(textsIn) : [];
}
