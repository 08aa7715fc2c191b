/**
 * What `query-qmp-schema` tells of (qapi/introspect.json). Names of types are QEMU's own numbers, which change with each of
 * its versions; those of commands, events, members and words do not.
 */
export type Entity =
	BuiltinEntity | EnumEntity | ArrayEntity | ObjectEntity | AlternateEntity | CommandEntity | EventEntity;

export interface BuiltinEntity extends Named {
	readonly 'meta-type': 'builtin';
	readonly 'json-type': 'string' | 'number' | 'int' | 'boolean' | 'null' | 'object' | 'array' | 'value';
}

export interface EnumEntity extends Named {
	readonly 'meta-type': 'enum';
	/** Since 6.2. */
	readonly 'members'?: readonly (Named & Featured)[];
	/** The same, and all there was before. */
	readonly 'values'?: readonly string[];
}

export interface ArrayEntity extends Named {
	readonly 'meta-type': 'array';
	readonly 'element-type': string;
}

export interface ObjectEntity extends Named, Featured {
	readonly 'meta-type': 'object';
	readonly 'members': readonly Member[];
	/** Of a union: the member whose value tells which variant follows. */
	readonly 'tag'?: string;
	readonly 'variants'?: readonly {readonly case: string; readonly type: string}[];
}

export interface AlternateEntity extends Named {
	readonly 'meta-type': 'alternate';
	readonly 'members': readonly {readonly type: string}[];
}

export interface CommandEntity extends Named, Featured {
	readonly 'meta-type': 'command';
	readonly 'arg-type': string;
	readonly 'ret-type': string;
	readonly 'allow-oob'?: boolean;
}

export interface EventEntity extends Named, Featured {
	readonly 'meta-type': 'event';
	readonly 'arg-type': string;
}

export interface Member extends Named, Featured {
	readonly type: string;
	/** There, and null, if the member may be left out. */
	readonly default?: null;
}

interface Named {
	readonly name: string;
}

interface Featured {
	/** Such as `deprecated` and `unstable`. */
	readonly features?: readonly string[];
}

/** The words of an enumeration. */
export function wordsOf({members, values = []}: EnumEntity): readonly string[] {
	return members?.map(({name}) => name) ?? values;
}

/** Whether it may be left out. */
export function isOptional(member: Member): boolean {
	return member.default !== undefined;
}
