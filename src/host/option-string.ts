export type JsonValue = string | number | boolean | null | JsonValue[] | JsonObject;
interface JsonObject {
	[key: string]: JsonValue;
}

/**
 * One `key=value` of an option. In the `pairs` syntax every value is text; nested members have dotted keys
 * (`file.filename`) in both syntaxes; arrays stay whole.
 */
export interface OptionItem {
	readonly key: string;
	readonly value: JsonValue;
	/** As it was written: `key=value`, the leading value alone (`q35`), or a bare `key` or `nokey`. */
	readonly form: 'pair' | 'implied' | 'flag';
}

/** The argument of an option such as `-drive` or `-blockdev`. */
export interface OptionString {
	readonly syntax: 'pairs' | 'json';
	readonly items: readonly OptionItem[];
}

/**
 * Reads text as QEMU does (util/qemu-option.c, util/keyval.c). A leading value without a key belongs to `impliedKey`
 * if the option has one, else it is a flag. What starts like JSON and is none is read as pairs: never throws.
 */
export function parseOptionString(text: string, impliedKey?: string): OptionString {
	const json = text.startsWith('{') ? parseQemuJson(text) : undefined;
	if (json) return {syntax: 'json', items: flatten(json)};
	const items: OptionItem[] = [];
	let rest: string | undefined = text;
	while (rest !== undefined && (rest !== '' || items.length > 0)) {
		let item: OptionItem;
		[item, rest] = parseItem(rest, items.length === 0 ? impliedKey : undefined);
		items.push(item);
	}
	return {syntax: 'pairs', items};
}

/** The first item, and what follows its comma. A trailing comma is followed by an empty flag, so that nothing is lost. */
function parseItem(text: string, impliedKey: string | undefined): [OptionItem, string | undefined] {
	const keyEnd = text.search(/[=,]/);
	const key = keyEnd < 0 ? text : text.slice(0, keyEnd);
	if (keyEnd >= 0 && text[keyEnd] === '=') {
		const [value, rest] = takeValue(text.slice(keyEnd + 1));
		return [{key, value, form: 'pair'}, rest];
	}
	if (impliedKey !== undefined) {
		const [value, rest] = takeValue(text);
		return [{key: impliedKey, value, form: 'implied'}, rest];
	}
	const item: OptionItem = key.startsWith('no')
		? {key: key.slice(2), value: 'off', form: 'flag'}
		: {key, value: 'on', form: 'flag'};
	return [item, keyEnd < 0 ? undefined : text.slice(keyEnd + 1)];
}

/** Up to the first single comma; two stand for one. */
function takeValue(text: string): [string, string | undefined] {
	const raw = /^(?:[^,]|,,)*/.exec(text)?.[0] ?? '';
	return [raw.replaceAll(',,', ','), raw.length < text.length ? text.slice(raw.length + 1) : undefined];
}

/** What {@link parseOptionString} reads as the same items. JSON comes out without blanks. */
export function printOptionString(option: OptionString): string {
	if (option.syntax === 'json') return JSON.stringify(nest(option.items.map(({key, value}) => [key, value])));
	return option.items.map(printItem).join(',');
}

function printItem({key, value, form}: OptionItem): string {
	const text = textOf(value);
	if (form === 'flag') return text === 'off' ? `no${key}` : key;
	const escaped = text.replaceAll(',', ',,');
	// A value with `=` before its first comma would be read as a key.
	return form === 'implied' && !/^[^,]*=/.test(text) ? escaped : `${key}=${escaped}`;
}

function textOf(value: JsonValue): string {
	return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** The value that counts, as text: the last one. A flag is `on` or `off`. */
export function optionValue(option: OptionString, key: string): string | undefined {
	const item = option.items.findLast(candidate => candidate.key === key);
	return item && item.value !== null ? textOf(item.value) : undefined;
}

/** QEMU's JSON: strings may be in single quotes. */
function parseQemuJson(text: string): JsonObject | undefined {
	const standard = text.replaceAll(/"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/gs, string =>
		string.startsWith('"')
			? string
			: `"${string.slice(1, -1).replaceAll(/\\.|"/gs, part => (part === "\\'" ? "'" : part === '"' ? '\\"' : part))}"`,
	);
	try {
		return JSON.parse(standard) as JsonObject;
	} catch {
		return undefined;
	}
}

function flatten(object: JsonObject, prefix = ''): OptionItem[] {
	return Object.entries(object).flatMap(([key, value]) =>
		isObject(value) && Object.keys(value).length > 0
			? flatten(value, `${prefix}${key}.`)
			: [{key: prefix + key, value, form: 'pair' as const}],
	);
}

function isObject(value: JsonValue): value is JsonObject {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function nest(entries: readonly (readonly [string, JsonValue])[]): JsonObject {
	const members = new Map<string, JsonValue>();
	const groups = new Map<string, [string, JsonValue][]>();
	for (const [key, value] of entries) {
		const dot = key.indexOf('.');
		if (dot < 0) {
			members.set(key, value);
			continue;
		}
		const head = key.slice(0, dot);
		const group = groups.get(head) ?? [];
		group.push([key.slice(dot + 1), value]);
		groups.set(head, group);
		members.set(head, null);
	}
	return Object.fromEntries(
		[...members].map(([key, value]): [string, JsonValue] => {
			const group = groups.get(key);
			return [key, group ? nest(group) : value];
		}),
	);
}
