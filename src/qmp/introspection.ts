import type {QmpConnection} from './connection.ts';
import {type CommandEntity, type Entity, type EventEntity, wordsOf} from './entities.ts';

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

	/** In the alphabet's order. */
	get commands(): readonly CommandEntity[] {
		return this.#sorted().filter(entity => entity['meta-type'] === 'command');
	}

	/** In the alphabet's order. */
	get events(): readonly EventEntity[] {
		return this.#sorted().filter(entity => entity['meta-type'] === 'event');
	}

	/** A type, command or event by its name, which is a number for most types. */
	entity(name: string): Entity | undefined {
		return this.#entities.get(name);
	}

	command(name: string): CommandEntity | undefined {
		const entity = this.#entities.get(name);
		return entity?.['meta-type'] === 'command' ? entity : undefined;
	}

	hasCommand(name: string): boolean {
		return this.command(name) !== undefined;
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
			type => type['meta-type'] === 'enum' && wordsOf(type).includes(value),
		);
	}

	#typesAt(command: string, side: 'arg-type' | 'ret-type', path: readonly string[]): Entity[] {
		return path.reduce(
			(types, step) => types.flatMap(type => this.#step(type, step)),
			this.#plain(this.command(command)?.[side]),
		);
	}

	#sorted(): Entity[] {
		return [...this.#entities.values()].sort((one, other) => (one.name < other.name ? -1 : 1));
	}

	#step(type: Entity, step: string): Entity[] {
		if (type['meta-type'] !== 'object') return [];
		const {members, variants} = type;
		const next = step.startsWith('+')
			? variants?.find(variant => variant.case === step.slice(1))
			: members.find(member => member.name === step);
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
				return entity.members.flatMap(member => this.#plain(member.type, visited));
			default:
				return [entity];
		}
	}
}
