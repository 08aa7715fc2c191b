import {type Entity, isOptional, type Member, type ObjectEntity, wordsOf} from './entities.ts';
import type {QmpSchema} from './introspection.ts';
import {nameTypes} from './type-names.ts';

const NOTHING = 'QmpNothing';

/**
 * TypeScript's declarations of all commands and events of a QEMU, for `QmpConnection.open<QmpCommands, QmpEvents>`. `version` is
 * for the comment at its head.
 */
export function declareTypes(schema: QmpSchema, version: string): string {
	const declare = new Declarations(schema);
	return [
		comment('', [
			`All commands and events of QEMU ${version}, as its own query-qmp-schema tells them.`,
			'Made by `quiesce qmp types`. Numbers beyond 2^53 lose digits in JavaScript.',
		]),
		declare.commands(),
		declare.events(),
		`export type ${NOTHING} = Record<string, never>;\n`,
		...declare.types(),
	].join('\n');
}

class Declarations {
	readonly #schema: QmpSchema;
	readonly #names: ReadonlyMap<string, string>;

	constructor(schema: QmpSchema) {
		this.#schema = schema;
		this.#names = nameTypes(schema);
	}

	commands(): string {
		const lines = this.#schema.commands.map(command => {
			const {name, features, 'arg-type': given, 'ret-type': returned} = command;
			return `${notes(features)}\t${key(name)}: {arguments: ${this.#argumentsOf(given)}; return: ${this.#use(returned)}};`;
		});
		return block('export interface QmpCommands', lines);
	}

	events(): string {
		const lines = this.#schema.events.map(
			({name, features, 'arg-type': data}) => `${notes(features)}\t${key(name)}: ${this.#use(data)};`,
		);
		return block('export interface QmpEvents', lines);
	}

	/** By their names. */
	types(): string[] {
		return [...this.#names]
			.sort(([, one], [, other]) => (one < other ? -1 : 1))
			.flatMap(([type, name]) => {
				const entity = this.#schema.entity(type);
				return entity ? [this.#declare(entity, name)] : [];
			});
	}

	#argumentsOf(type: string): string {
		const entity = this.#schema.entity(type);
		const used = this.#use(type);
		if (used === NOTHING) return 'undefined';
		const mayBeLeftOut = entity?.['meta-type'] === 'object' && !entity.variants && entity.members.every(isOptional);
		return mayBeLeftOut ? `${used} | undefined` : used;
	}

	#declare(entity: Entity, name: string): string {
		switch (entity['meta-type']) {
			case 'enum':
				return `export type ${name} =${alternatives(wordsOf(entity).map(word => JSON.stringify(word)))};\n`;
			case 'alternate':
				return `export type ${name} =${alternatives(entity.members.map(({type}) => this.#use(type)))};\n`;
			case 'object':
				return entity.variants
					? this.#union(entity, name)
					: block(`export interface ${name}`, this.#members(entity.members));
			default:
				return '';
		}
	}

	/** What all variants have, and what each has besides. */
	#union({members, tag, variants = []}: ObjectEntity, name: string): string {
		const shared = members.filter(member => member.name !== tag);
		const own = variants.map(({case: word, type}) => {
			const tagged = `{${key(tag ?? '')}: ${JSON.stringify(word)}}`;
			const more = this.#use(type);
			return more === NOTHING ? tagged : `(${tagged} & ${more})`;
		});
		const either = alternatives(own);
		if (shared.length === 0) return `export type ${name} =${either};\n`;
		const common = `{\n${this.#members(shared).join('\n')}\n}`;
		return `export type ${name} = ${common} & (${either}\n);\n`;
	}

	#members(members: readonly Member[]): string[] {
		return members.map(member => {
			const mark = isOptional(member) ? '?' : '';
			return `${notes(member.features)}\t${key(member.name)}${mark}: ${this.#use(member.type)};`;
		});
	}

	/** A type where it is used: its name, or what it is. */
	#use(type: string): string {
		const named = this.#names.get(type);
		if (named !== undefined) return named;
		const entity = this.#schema.entity(type);
		switch (entity?.['meta-type']) {
			case 'array': {
				const element = this.#use(entity['element-type']);
				return `${element}[]`;
			}
			case 'builtin':
				return BUILTIN[entity['json-type']];
			case 'object':
				return NOTHING;
			default:
				return 'unknown';
		}
	}
}

const BUILTIN = {
	string: 'string',
	number: 'number',
	int: 'number',
	boolean: 'boolean',
	null: 'null',
	object: 'object',
	array: 'unknown[]',
	value: 'unknown',
} as const;

function block(head: string, lines: readonly string[]): string {
	return `${head} {\n${lines.join('\n')}\n}\n`;
}

function alternatives(all: readonly string[]): string {
	return all.length === 0 ? ' never' : all.map(one => `\n\t| ${one}`).join('');
}

/** Any name, as a key. */
function key(name: string): string {
	return /^[A-Za-z_$][\w$]*$/.test(name) ? name : JSON.stringify(name);
}

/** What is deprecated or may change is said where editors show it. */
function notes(features: readonly string[] = []): string {
	const words = [
		...(features.includes('unstable') ? ['Unstable: it may change with any release.'] : []),
		...(features.includes('deprecated') ? ['@deprecated'] : []),
	];
	return words.length === 0 ? '' : comment('\t', words);
}

function comment(indent: string, lines: readonly string[]): string {
	const [first = '', ...rest] = lines.map(line => line.replaceAll('*/', '* /').replaceAll(/[\r\n]/g, ' '));
	if (rest.length === 0) return `${indent}/** ${first} */\n`;
	return `${indent}/**\n${[first, ...rest].map(line => `${indent} * ${line}\n`).join('')}${indent} */\n`;
}
