import {UsageError} from '../../errors.ts';
import {isOptional, wordsOf} from '../../qmp/entities.ts';
import type {QmpSchema} from '../../qmp/introspection.ts';
import {formatTable} from '../table.ts';

/** The arguments of a command, for people. */
export function describeCommand(schema: QmpSchema, name: string): string {
	const command = schema.command(name);
	if (!command) throw new UsageError(`this QEMU has no command ${name}`, {hint: '`help` lists them.'});
	const {features = [], 'arg-type': type} = command;
	const entity = schema.entity(type);
	const head = [name, ...features.map(feature => `(${feature})`)].join(' ');
	if (entity?.['meta-type'] !== 'object' || entity.members.length === 0) return `${head}\n  takes no arguments`;
	const table = formatTable(
		[
			{title: 'ARGUMENT', value: member => member.name},
			{title: '', value: member => (isOptional(member) ? 'optional' : '')},
			{title: 'KIND', value: member => kindOf(schema, member.type)},
		],
		entity.members,
	);
	const {tag, variants} = entity;
	const more =
		tag !== undefined && variants ? `\n  and what goes with ${tag}: Tab completes it once that is given` : '';
	return `${head}\n${table.trimEnd().replaceAll(/^/gm, '  ')}${more}`;
}

function kindOf(schema: QmpSchema, type: string): string {
	const entity = schema.entity(type);
	switch (entity?.['meta-type']) {
		case 'builtin':
			return entity['json-type'];
		case 'enum':
			return wordsOf(entity).join(' | ');
		case 'array':
			return `list of ${kindOf(schema, entity['element-type'])}`;
		case 'alternate':
			return entity.members.map(member => kindOf(schema, member.type)).join(' or ');
		default:
			return 'object';
	}
}
