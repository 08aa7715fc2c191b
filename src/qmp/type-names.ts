import type {Entity} from './entities.ts';
import type {QmpSchema} from './introspection.ts';

interface Found {
	readonly type: string;
	/** Of what is beneath it. */
	readonly stem: string;
	readonly suffix: string;
}

/**
 * Readable names for the types of a schema that have a shape of their own, by the names that the schema has for them. Each is
 * called after the command or event from which the shortest path leads to it: `BlockdevAddArguments`, `QueryBlockInserted`.
 */
export function nameTypes(schema: QmpSchema): ReadonlyMap<string, string> {
	const names = new Map<string, string>();
	const taken = new Set(['QmpCommands', 'QmpEvents', 'QmpNothing', 'Record']);
	let level = roots(schema);
	while (level.length > 0) {
		const next: Found[] = [];
		for (const {type, stem, suffix} of level) {
			const entity = schema.entity(type);
			if (!entity || names.has(type)) continue;
			if (entity['meta-type'] === 'array') {
				// It has the name of what it consists of.
				next.push({type: entity['element-type'], stem, suffix});
				continue;
			}
			if (!hasShape(entity)) continue;
			names.set(type, free(stem + suffix, taken));
			next.push(...beneath(entity, stem));
		}
		level = next;
	}
	return names;
}

function roots({commands, events}: QmpSchema): Found[] {
	return [
		...commands.flatMap(command => {
			const stem = pascal(command.name);
			return [
				{type: command['arg-type'], stem, suffix: 'Arguments'},
				{type: command['ret-type'], stem, suffix: 'Result'},
			];
		}),
		...events.map(event => ({type: event['arg-type'], stem: pascal(event.name.toLowerCase()), suffix: 'Data'})),
	];
}

/** Others are written where they are used. */
function hasShape(entity: Entity): boolean {
	const kind = entity['meta-type'];
	if (kind === 'object') return entity.members.length > 0 || entity.variants !== undefined;
	return kind === 'enum' || kind === 'alternate';
}

function beneath(entity: Entity, stem: string): Found[] {
	switch (entity['meta-type']) {
		case 'object':
			return [
				...entity.members.map(({name, type}) => ({type, stem: stem + pascal(name), suffix: ''})),
				...(entity.variants ?? []).map(({case: word, type}) => ({type, stem: stem + pascal(word), suffix: ''})),
			];
		case 'alternate':
			return entity.members.map(({type}, index) => ({type, stem: `${stem}Or${index + 1}`, suffix: ''}));
		default:
			return [];
	}
}

function free(name: string, taken: Set<string>): string {
	let candidate = name;
	for (let number = 2; taken.has(candidate); number++) candidate = `${name}${number}`;
	taken.add(candidate);
	return candidate;
}

/** Of what is no letter or digit nothing is left, whatever a monitor calls its things. */
function pascal(name: string): string {
	const words = name.split(/[^A-Za-z0-9]+/).filter(word => word !== '');
	const joined = words.map(word => word.charAt(0).toUpperCase() + word.slice(1)).join('');
	return /^[A-Z]/.test(joined) ? joined : `X${joined}`;
}
