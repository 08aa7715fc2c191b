import {type Entity, wordsOf} from './entities.ts';
import type {QmpSchema} from './introspection.ts';

export interface Completion {
	/** Each instead of {@link Completion.word}; those that end in `=` or `.` are to be gone on with. */
	readonly candidates: readonly string[];
	/** What stands at the end of the line so far. */
	readonly word: string;
}

/** How the last word of `command key=value…` may go on, by the schema: commands, names of arguments, words of enumerations. */
export function completeLine(schema: QmpSchema, line: string): Completion {
	const words = line.trimStart().split(/\s+/);
	const word = words.at(-1) ?? '';
	if (words.length <= 1)
		return beginningWith(
			word,
			schema.commands.map(({name}) => `${name} `),
		);
	const [command = '', ...others] = words.slice(0, -1);
	const given = new Map(others.flatMap(other => (other.includes('=') ? [split(other)] : [])));
	const root = schema.command(command)?.['arg-type'];
	const types = root === undefined ? [] : branches(schema, root);
	const at = word.indexOf('=');
	const path = (at < 0 ? word : word.slice(0, at)).split('.');
	const above = path.slice(0, -1);
	const reached = above.reduce(
		(found, step, depth) => stepInto(schema, found, step, above.slice(0, depth), given),
		types,
	);
	const prefix = above.map(step => `${step}.`).join('');
	const members = reached.flatMap(type => membersOf(schema, type, above, given));
	if (at < 0) {
		const names = members
			.filter(({name}) => !given.has(prefix + name))
			.map(({name, type}) => prefix + name + (branches(schema, type).some(isNested) ? '.' : '='));
		return beginningWith(word, names);
	}
	const wanted = members.filter(({name}) => name === path.at(-1));
	const values = wanted.flatMap(({type}) => branches(schema, type).flatMap(valuesOf));
	return beginningWith(
		word,
		values.map(value => `${word.slice(0, at + 1)}${value} `),
	);
}

function beginningWith(word: string, all: readonly string[]): Completion {
	return {word, candidates: [...new Set(all)].filter(candidate => candidate.startsWith(word)).sort()};
}

function split(word: string): readonly [string, string] {
	const at = word.indexOf('=');
	return [word.slice(0, at), word.slice(at + 1)];
}

/** What an alternate may be, too. */
function branches(schema: QmpSchema, type: string): Entity[] {
	const entity = schema.entity(type);
	if (entity?.['meta-type'] !== 'alternate') return entity ? [entity] : [];
	return entity.members.flatMap(member => branches(schema, member.type));
}

function stepInto(
	schema: QmpSchema,
	entities: readonly Entity[],
	step: string,
	above: readonly string[],
	given: ReadonlyMap<string, string>,
): Entity[] {
	return entities.flatMap(entity => {
		if (entity['meta-type'] === 'array') return /^\d+$/.test(step) ? branches(schema, entity['element-type']) : [];
		return membersOf(schema, entity, above, given)
			.filter(({name}) => name === step)
			.flatMap(({type}) => branches(schema, type));
	});
}

/** With those of the variant, once its tag is given. */
function membersOf(
	schema: QmpSchema,
	entity: Entity,
	above: readonly string[],
	given: ReadonlyMap<string, string>,
): readonly {readonly name: string; readonly type: string}[] {
	if (entity['meta-type'] !== 'object') return [];
	const {members, tag, variants = []} = entity;
	const word = tag === undefined ? undefined : given.get([...above, tag].join('.'));
	const more = variants.find(variant => variant.case === word);
	const added = more ? schema.entity(more.type) : undefined;
	return added ? [...members, ...membersOf(schema, added, above, given)] : members;
}

function isNested(entity: Entity): boolean {
	return entity['meta-type'] === 'object' || entity['meta-type'] === 'array';
}

function valuesOf(entity: Entity): readonly string[] {
	if (entity['meta-type'] === 'enum') return wordsOf(entity);
	return entity['meta-type'] === 'builtin' && entity['json-type'] === 'boolean' ? ['true', 'false'] : [];
}
