import {type Entity, isOptional, type Member, type ObjectEntity, wordsOf} from './entities.ts';
import type {QmpSchema} from './introspection.ts';

/** Where in what was given something is wrong, from the outside in, and what. */
export interface ArgumentProblem {
	readonly path: readonly (string | number)[];
	readonly message: string;
}

/** An alternate within an alternate, and so on, ends somewhere. */
const MAX_DEPTH = 100;
/** More members than that are not listed. */
const MAX_LISTED = 12;

/**
 * What QEMU would refuse of a command with these arguments, by its own schema: unknown names, missing ones, and values of another
 * kind. What it does not tell of, such as whether a node exists, is for QEMU to say.
 */
export function checkArguments(schema: QmpSchema, command: string, given: unknown): readonly ArgumentProblem[] {
	const entity = schema.command(command);
	if (!entity) {
		const like = similar(
			command,
			schema.commands.map(({name}) => name),
		);
		return [{path: [], message: `this QEMU has no command ${command}${like}`}];
	}
	return new Check(schema).check(entity['arg-type'], given, [], 0);
}

class Check {
	readonly #schema: QmpSchema;

	constructor(schema: QmpSchema) {
		this.#schema = schema;
	}

	check(type: string, given: unknown, path: readonly (string | number)[], depth: number): readonly ArgumentProblem[] {
		const entity = this.#schema.entity(type);
		if (!entity || depth > MAX_DEPTH) return [];
		switch (entity['meta-type']) {
			case 'object':
				return isObject(given)
					? this.#checkObject(entity, given, path, depth)
					: [{path, message: `expected an object, not ${kindOf(given)}`}];
			case 'array':
				if (!Array.isArray(given)) return [{path, message: `expected a list, not ${kindOf(given)}`}];
				return given.flatMap((element, index) =>
					this.check(entity['element-type'], element, [...path, index], depth + 1),
				);
			case 'enum': {
				const words = wordsOf(entity);
				if (typeof given === 'string' && words.includes(given)) return [];
				const wrong = typeof given === 'string' ? `'${given}'` : kindOf(given);
				return [{path, message: `expected one of ${listed(words)}, not ${wrong}`}];
			}
			case 'alternate':
				return this.#checkAlternate(
					entity.members.map(member => member.type),
					given,
					path,
					depth,
				);
			case 'builtin':
				return fits(entity, given)
					? []
					: [{path, message: `expected ${SAID[entity['json-type']]}, not ${kindOf(given)}`}];
			default:
				return [];
		}
	}

	#checkObject(
		entity: ObjectEntity,
		given: Readonly<Record<string, unknown>>,
		path: readonly (string | number)[],
		depth: number,
	): readonly ArgumentProblem[] {
		const members = this.#membersOf(entity, given);
		const missing = members.filter(member => !isOptional(member) && given[member.name] === undefined);
		return [
			...missing.map(({name}) => ({path, message: `${name} is missing`})),
			...Object.entries(given).flatMap(([name, value]) => {
				const member = members.find(one => one.name === name);
				const at = [...path, name];
				if (member) return this.check(member.type, value, at, depth + 1);
				return [
					{
						path: at,
						message: `there is no ${name} here${similar(
							name,
							members.map(one => one.name),
						)}`,
					},
				];
			}),
		];
	}

	/** With those of the variant that its tag tells. */
	#membersOf(entity: ObjectEntity, given: Readonly<Record<string, unknown>>): readonly Member[] {
		const {members, tag, variants = []} = entity;
		const variant = tag === undefined ? undefined : variants.find(one => one.case === given[tag]);
		const more = variant && this.#schema.entity(variant.type);
		return more?.['meta-type'] === 'object' ? [...members, ...this.#membersOf(more, given)] : members;
	}

	/** What is wrong with the branch that it is nearest to. */
	#checkAlternate(
		types: readonly string[],
		given: unknown,
		path: readonly (string | number)[],
		depth: number,
	): readonly ArgumentProblem[] {
		const all = types.map(type => this.check(type, given, path, depth + 1));
		if (all.some(problems => problems.length === 0)) return [];
		const inside = all.find(problems => problems.some(problem => problem.path.length > path.length));
		return inside ?? all.find(([problem]) => problem && !problem.message.startsWith('expected')) ?? all[0] ?? [];
	}
}

const SAID = {
	string: 'text',
	number: 'a number',
	int: 'a whole number',
	boolean: 'true or false',
	null: 'null',
	object: 'an object',
	array: 'a list',
	value: 'anything',
} as const;

function fits(entity: Extract<Entity, {'meta-type': 'builtin'}>, given: unknown): boolean {
	switch (entity['json-type']) {
		case 'string':
			return typeof given === 'string';
		case 'number':
			return typeof given === 'number';
		case 'int':
			return Number.isSafeInteger(given);
		case 'boolean':
			return typeof given === 'boolean';
		case 'null':
			return given === null;
		case 'object':
			return isObject(given);
		case 'array':
			return Array.isArray(given);
		case 'value':
			return given !== undefined;
	}
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function kindOf(value: unknown): string {
	if (value === undefined) return 'nothing';
	if (value === null) return 'null';
	if (Array.isArray(value)) return 'a list';
	if (typeof value === 'object') return 'an object';
	if (typeof value === 'string') return `'${value}'`;
	return typeof value === 'number' || typeof value === 'boolean' ? String(value) : typeof value;
}

function listed(words: readonly string[]): string {
	if (words.length <= MAX_LISTED) return words.join(', ');
	return `${words.slice(0, MAX_LISTED).join(', ')} and ${words.length - MAX_LISTED} more`;
}

/** What may have been meant: it has the same letters, or begins so; else what there is, if that is little. */
function similar(name: string, names: readonly string[]): string {
	const plain = (text: string): string => text.toLowerCase().replaceAll(/[^a-z0-9]/g, '');
	const near = names.filter(other => distance(plain(name), plain(other)) <= Math.max(1, Math.floor(name.length / 5)));
	if (near.length > 0) return `: did you mean ${near.slice(0, 3).join(' or ')}?`;
	if (names.length === 0) return ': there is nothing to be given';
	return names.length <= MAX_LISTED ? `, but ${names.join(', ')}` : '';
}

/** How many letters differ (Levenshtein). */
function distance(one: string, other: string): number {
	let row = Array.from({length: other.length + 1}, (_, index) => index);
	for (let i = 1; i <= one.length; i++) {
		const next = [i];
		for (let j = 1; j <= other.length; j++) {
			const same = one[i - 1] === other[j - 1] ? 0 : 1;
			next.push(Math.min((next[j - 1] ?? 0) + 1, (row[j] ?? 0) + 1, (row[j - 1] ?? 0) + same));
		}
		row = next;
	}
	return row[other.length] ?? 0;
}
