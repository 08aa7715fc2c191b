import {UsageError} from '../errors.ts';
import {type Entity, type Member, wordsOf} from './entities.ts';
import type {QmpSchema} from './introspection.ts';

type Value = unknown;
interface Tree {
	[key: string]: Value;
}

/**
 * The arguments of a command from words `key=value`. What a value is depends on what the schema wants there: text stays text,
 * numbers and truth are read, and whatever begins with a brace or a bracket is JSON. A dot leads into an object, as in
 * `file.driver=file`, and a number after it into a list. `{…}` alone is all arguments as JSON. Throws `UsageError`.
 */
export function parseKeyValues(schema: QmpSchema, command: string, words: readonly string[]): Record<string, unknown> {
	const [only] = words;
	if (words.length === 1 && only?.startsWith('{') === true) return parseObject(only);
	const given: Tree = {};
	for (const word of words) {
		const at = word.indexOf('=');
		if (at < 1)
			throw new UsageError(`'${word}' is not key=value`, {hint: 'Or give all arguments as JSON: {"key": "value"}.'});
		put(given, word.slice(0, at).split('.'), word.slice(at + 1), word);
	}
	const type = schema.command(command)?.['arg-type'];
	return readTree(schema, type === undefined ? [] : [type], given) as Record<string, unknown>;
}

function parseObject(text: string): Record<string, unknown> {
	const value = parseJson(text);
	if (typeof value !== 'object' || value === null || Array.isArray(value)) {
		throw new UsageError(`'${text}' is not a JSON object`);
	}
	return value as Record<string, unknown>;
}

function parseJson(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch (cause) {
		throw new UsageError(`'${text}' is not JSON`, {
			cause,
			hint: 'Put it in single quotes, so that the shell leaves it alone.',
		});
	}
}

/** A leaf of the tree, before it is known what it is to be. */
class Leaf {
	readonly text: string;

	constructor(text: string) {
		this.text = text;
	}
}

function put(tree: Tree, [key = '', ...rest]: readonly string[], text: string, word: string): void {
	if (key === '' || key === '__proto__') throw new UsageError(`'${word}' has a name that is none`);
	const there = Object.hasOwn(tree, key) ? tree[key] : undefined;
	if (rest.length === 0) {
		if (there !== undefined) throw new UsageError(`${key} is given twice`);
		tree[key] = new Leaf(text);
		return;
	}
	if (there instanceof Leaf) throw new UsageError(`'${word}': ${key} has a value of its own already`);
	const next: Tree = (there as Tree | undefined) ?? {};
	tree[key] = next;
	put(next, rest, text, word);
}

/** `types`: what may be there. */
function readTree(schema: QmpSchema, types: readonly string[], value: Value): unknown {
	const entities = types.flatMap(type => branches(schema, type));
	if (value instanceof Leaf) return readLeaf(entities, value.text);
	const tree = value as Tree;
	const keys = Object.keys(tree);
	const elements = entities.flatMap(entity => (entity['meta-type'] === 'array' ? [entity['element-type']] : []));
	if (keys.every((key, index) => key === String(index)) && (elements.length > 0 || entities.length === 0)) {
		return keys.map(key => readTree(schema, elements, tree[key]));
	}
	const tagged = (name: string): string | undefined => (tree[name] instanceof Leaf ? tree[name].text : undefined);
	const members = entities.flatMap(entity => membersOf(schema, entity, tagged));
	return Object.fromEntries(
		keys.map(key => {
			const wanted = members.filter(({name}) => name === key).map(({type}) => type);
			return [key, readTree(schema, wanted, tree[key])];
		}),
	);
}

function branches(schema: QmpSchema, type: string): Entity[] {
	const entity = schema.entity(type);
	if (entity?.['meta-type'] !== 'alternate') return entity ? [entity] : [];
	return entity.members.flatMap(member => branches(schema, member.type));
}

function membersOf(schema: QmpSchema, entity: Entity, tagged: (name: string) => string | undefined): readonly Member[] {
	if (entity['meta-type'] !== 'object') return [];
	const {members, tag, variants = []} = entity;
	const variant = tag === undefined ? undefined : variants.find(one => one.case === tagged(tag));
	const more = variant && schema.entity(variant.type);
	return more ? [...members, ...membersOf(schema, more, tagged)] : members;
}

function readLeaf(entities: readonly Entity[], text: string): unknown {
	const kinds = new Set<string>(entities.map(kindOf));
	const isWord = entities.some(entity => entity['meta-type'] === 'enum' && wordsOf(entity).includes(text));
	if (isWord) return text;
	if ((kinds.has('int') || kinds.has('number')) && /^-?\d+(\.\d+)?([eE][+-]?\d+)?$/.test(text)) return Number(text);
	if (kinds.has('boolean')) {
		if (['true', 'on', 'yes'].includes(text)) return true;
		if (['false', 'off', 'no'].includes(text)) return false;
	}
	if (kinds.has('null') && text === 'null') return null;
	const structured = kinds.has('object') || kinds.has('array') || kinds.has('value') || kinds.size === 0;
	if (structured && /^[[{"]/.test(text)) return parseJson(text);
	if ((kinds.has('value') || kinds.size === 0) && /^(true|false|null|-?\d+(\.\d+)?)$/.test(text))
		return parseJson(text);
	return text;
}

function kindOf(entity: Entity): string {
	return entity['meta-type'] === 'builtin' ? entity['json-type'] : entity['meta-type'];
}
