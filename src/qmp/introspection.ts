import type {QmpConnection} from './connection.ts';

/** One entity of the reply. Which members are there depends on `meta-type`; type names are QEMU's own numbers. */
interface Entity {
	'name': string;
	'meta-type': 'builtin' | 'enum' | 'array' | 'object' | 'alternate' | 'command' | 'event';
	'arg-type'?: string;
	'ret-type'?: string;
	'element-type'?: string;
	'members'?: {name?: string; type?: string}[];
	'variants'?: {case: string; type: string}[];
	/** Deprecated since 6.2 in favour of `members`, and all there was before. */
	'values'?: string[];
}

/**
 * What this QEMU can do, by its own account. A path leads from a command through the names of members, as
 * `'actions', 'type'`; arrays and alternates are seen through, and `'+copy-before-write'` steps into that branch of a
 * union.
 */
export class QmpSchema {
	readonly #entities: ReadonlyMap<string, Entity>;

	/** Takes the reply of `query-qmp-schema`. */
	constructor(reply: readonly unknown[]) {
		this.#entities = new Map((reply as Entity[]).map(entity => [entity.name, entity]));
	}

	static async read(qmp: Pick<QmpConnection, 'execute'>): Promise<QmpSchema> {
		return new QmpSchema(await qmp.execute('query-qmp-schema'));
	}

	hasCommand(name: string): boolean {
		return this.#entities.get(name)?.['meta-type'] === 'command';
	}

	hasEvent(name: string): boolean {
		return this.#entities.get(name)?.['meta-type'] === 'event';
	}

	hasArgument(command: string, ...path: string[]): boolean {
		return this.#typesAt(command, 'arg-type', path).length > 0;
	}

	/** The same for what the command returns. */
	hasReturn(command: string, ...path: string[]): boolean {
		return this.#typesAt(command, 'ret-type', path).length > 0;
	}

	/** Whether the argument at `path` takes the word `value`. */
	enumHas(command: string, path: readonly string[], value: string): boolean {
		return this.#typesAt(command, 'arg-type', path).some(
			({members, values}) => members?.some(member => member.name === value) ?? values?.includes(value),
		);
	}

	#typesAt(command: string, side: 'arg-type' | 'ret-type', path: readonly string[]): Entity[] {
		if (!this.hasCommand(command)) return [];
		return path.reduce(
			(types, step) => types.flatMap(type => this.#step(type, step)),
			this.#plain(this.#entities.get(command)?.[side]),
		);
	}

	#step({members, variants}: Entity, step: string): Entity[] {
		const next = step.startsWith('+')
			? variants?.find(variant => variant.case === step.slice(1))
			: members?.find(member => member.name === step);
		return this.#plain(next?.type);
	}

	/** The types behind arrays and alternates, which may nest and, in theory, contain themselves. */
	#plain(name: string | undefined, visited = new Set<string>()): Entity[] {
		const entity = name === undefined || visited.has(name) ? undefined : this.#entities.get(name);
		if (!entity) return [];
		visited.add(entity.name);
		switch (entity['meta-type']) {
			case 'array':
				return this.#plain(entity['element-type'], visited);
			case 'alternate':
				return (entity.members ?? []).flatMap(member => this.#plain(member.type, visited));
			default:
				return [entity];
		}
	}
}
