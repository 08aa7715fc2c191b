import {join} from 'node:path';
import ts from 'typescript';

/** One entity of the reply of `query-qmp-schema`, as far as it is read here. */
export interface SchemaInfo {
	readonly 'name': string;
	readonly 'meta-type': 'builtin' | 'enum' | 'array' | 'object' | 'alternate' | 'command' | 'event';
	readonly 'json-type'?: string;
	readonly 'element-type'?: string;
	readonly 'members'?: readonly SchemaMember[];
	readonly 'tag'?: string;
	readonly 'variants'?: readonly {readonly case: string; readonly type: string}[];
	readonly 'arg-type'?: string;
	readonly 'ret-type'?: string;
	readonly 'allow-oob'?: boolean;
	readonly 'features'?: readonly string[];
}

interface SchemaMember {
	readonly name?: string;
	readonly type?: string;
	/** Present, and null, on optional members. */
	readonly default?: null;
	readonly features?: readonly string[];
}

/** Sent to QEMU or received from it: what is optional, and what an enum must cover, differs. */
type Way = 'sent' | 'received';

/**
 * Where TypeScript interfaces named as in `src/qmp/schema.ts` differ from what QEMUs say of themselves: a line for each
 * place and difference, with the versions it concerns. Throws if `source` does not compile.
 */
export function differences(source: string, schemas: Readonly<Record<string, readonly SchemaInfo[]>>): string[] {
	const {checker, module} = compile(source);
	const comparisons = Object.entries(schemas).map(([version, schema]) => ({
		version,
		...new Comparison(checker, schema).run(module),
	}));
	const versions = new Map<string, string[]>();
	for (const {version, found, lacking} of comparisons) {
		const nowhere = lacking.filter(path => comparisons.every(({present}) => !present.has(path)));
		for (const line of [...found, ...nowhere.map(path => `${path} does not exist`)]) {
			versions.set(line, [...(versions.get(line) ?? []), version]);
		}
	}
	return Array.from(versions, ([line, where]) => `${line} (${where.join(', ')})`);
}

function compile(source: string): {checker: ts.TypeChecker; module: ts.Symbol} {
	const name = join(import.meta.dirname, 'under-test.ts');
	const options: ts.CompilerOptions = {
		target: ts.ScriptTarget.ES2024,
		lib: ['lib.es2024.d.ts'],
		strict: true,
		exactOptionalPropertyTypes: true,
		types: [],
		noEmit: true,
	};
	const host = ts.createCompilerHost(options);
	const onDisk = host.getSourceFile.bind(host);
	host.getSourceFile = (file, ...rest) =>
		file === name ? ts.createSourceFile(file, source, ts.ScriptTarget.ES2024) : onDisk(file, ...rest);
	const program = ts.createProgram([name], options, host);
	const file = program.getSourceFile(name)!;
	const problems = [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)];
	if (problems.length > 0) throw new Error(ts.formatDiagnostics(problems, host));
	const checker = program.getTypeChecker();
	return {checker, module: checker.getSymbolAtLocation(file)!};
}

/** One version's schema against the types. */
class Comparison {
	readonly #checker: ts.TypeChecker;
	readonly #schema: ReadonlyMap<string, SchemaInfo>;
	readonly #seen = new Map<ts.Type, Set<string>>();
	#found: string[] = [];
	/** Members that are received, declared optional and unknown to this version: right if another version has them. */
	readonly #lacking: string[] = [];
	readonly #present = new Set<string>();

	constructor(checker: ts.TypeChecker, schema: readonly SchemaInfo[]) {
		this.#checker = checker;
		this.#schema = new Map(schema.map(info => [info.name, info]));
	}

	run(module: ts.Symbol): {found: string[]; lacking: string[]; present: Set<string>} {
		for (const [name, entry] of this.#entries(module, 'QmpCommands')) this.#command(name, entry);
		for (const [name, entry] of this.#entries(module, 'QmpLaterCommands')) {
			if (!this.#schema.has(name)) this.#lacking.push(name);
			else {
				this.#present.add(name);
				this.#command(name, entry);
			}
		}
		for (const [name, entry] of this.#entries(module, 'QmpOutOfBandCommands')) {
			this.#command(name, entry);
			if (!this.#schema.get(name)?.['allow-oob']) this.#say(name, 'is not taken out of band');
		}
		for (const [name, data] of this.#entries(module, 'QmpEvents')) this.#event(name, data);
		return {found: this.#found, lacking: this.#lacking, present: this.#present};
	}

	#entries(module: ts.Symbol, name: string): [string, ts.Type][] {
		const symbol = this.#checker.getExportsOfModule(module).find(symbol => symbol.name === name);
		return symbol ? this.#membersOf(this.#checker.getDeclaredTypeOfSymbol(symbol)) : [];
	}

	#membersOf(type: ts.Type): [string, ts.Type][] {
		return type.getProperties().map(member => [member.name, this.#checker.getTypeOfSymbol(member)]);
	}

	#command(name: string, entry: ts.Type): void {
		const info = this.#schema.get(name);
		if (info?.['meta-type'] !== 'command') {
			this.#say(name, 'is no command');
			return;
		}
		this.#sayIfDeprecated(name, info);
		const members = new Map(this.#membersOf(entry));
		this.#arguments(`${name}.arguments`, members.get('arguments')!, info['arg-type']!);
		this.#compare('received', `${name}.return`, members.get('return')!, info['ret-type']!);
	}

	#arguments(path: string, type: ts.Type, schemaType: string): void {
		if (!(type.flags & ts.TypeFlags.Undefined)) {
			this.#compare('sent', path, type, schemaType);
			return;
		}
		for (const member of this.#schema.get(schemaType)!.members!) {
			if (!isOptional(member)) this.#say(`${path}.${member.name}`, 'is demanded');
		}
	}

	#event(name: string, data: ts.Type): void {
		const info = this.#schema.get(name);
		if (info?.['meta-type'] !== 'event') {
			this.#say(name, 'is no event');
			return;
		}
		this.#sayIfDeprecated(name, info);
		this.#compare('received', name, data, info['arg-type']!);
	}

	#compare(way: Way, path: string, declared: ts.Type, schemaType: string): void {
		if (declared.flags & (ts.TypeFlags.Any | ts.TypeFlags.Unknown)) return;
		// An optional member's type has `undefined` in it.
		const type = this.#checker.getNonNullableType(declared);
		if (this.#wasSeen(type, way + schemaType)) return;
		const info = this.#schema.get(schemaType)!;
		switch (info['meta-type']) {
			case 'array':
				if (!this.#checker.isArrayType(type)) this.#say(path, 'is an array');
				else
					this.#compare(
						way,
						`${path}[]`,
						this.#checker.getTypeArguments(type as ts.TypeReference)[0]!,
						info['element-type']!,
					);
				break;
			case 'alternate':
				this.#alternate(way, path, type, info);
				break;
			case 'enum':
				this.#enum(way, path, type, info);
				break;
			case 'object':
				for (const part of type.isUnion() ? type.types : [type]) this.#object(way, path, part, info);
				break;
			default:
				this.#builtin(way, path, type, info);
		}
	}

	/** Types may refer to themselves, as an image to its backing image. */
	#wasSeen(type: ts.Type, as: string): boolean {
		if (!(type.flags & ts.TypeFlags.Object)) return false;
		const seen = this.#seen.get(type) ?? new Set();
		this.#seen.set(type, seen);
		if (seen.has(as)) return true;
		seen.add(as);
		return false;
	}

	#builtin(way: Way, path: string, type: ts.Type, info: SchemaInfo): void {
		const flags: Record<string, ts.TypeFlags> = {
			string: way === 'sent' ? ts.TypeFlags.StringLike : ts.TypeFlags.String,
			int: ts.TypeFlags.Number,
			number: ts.TypeFlags.Number,
			boolean: ts.TypeFlags.Boolean,
		};
		const expected = flags[info['json-type']!] ?? ts.TypeFlags.Never;
		if (!(type.flags & expected)) this.#say(path, `is of type ${info['json-type']}`);
	}

	#enum(way: Way, path: string, type: ts.Type, info: SchemaInfo): void {
		if (type.flags & ts.TypeFlags.String) return;
		const known = new Set(info.members!.map(({name}) => name!));
		const declared = new Set<string>();
		for (const part of type.isUnion() ? type.types : [type]) {
			if (!part.isStringLiteral()) this.#say(path, 'is of type string');
			else if (!known.has(part.value)) this.#say(path, `is never '${part.value}'`);
			else declared.add(part.value);
		}
		if (way === 'sent') return;
		for (const value of known) if (!declared.has(value)) this.#say(path, `may be '${value}'`);
	}

	#alternate(way: Way, path: string, type: ts.Type, info: SchemaInfo): void {
		const before = this.#found;
		const fits = info.members!.some(member => {
			this.#found = [];
			this.#compare(way, path, type, member.type!);
			return this.#found.length === 0;
		});
		this.#found = before;
		if (!fits) this.#say(path, 'is none of the alternatives');
	}

	#object(way: Way, path: string, type: ts.Type, info: SchemaInfo): void {
		if (!(type.flags & ts.TypeFlags.Object) || this.#checker.isArrayType(type)) {
			this.#say(path, 'is an object');
			return;
		}
		const declared = new Map(type.getProperties().map(member => [member.name, member]));
		const known = this.#knownMembers(type, info);
		for (const [name, symbol] of declared) {
			const member = known.get(name);
			const mayLack = (symbol.flags & ts.SymbolFlags.Optional) !== 0;
			if (!member) {
				if (way === 'received' && mayLack) this.#lacking.push(`${path}.${name}`);
				else this.#say(`${path}.${name}`, 'does not exist');
				continue;
			}
			this.#present.add(`${path}.${name}`);
			if (way === 'received' && isOptional(member) && !mayLack) this.#say(`${path}.${name}`, 'may be absent');
			if (way === 'sent' && !isOptional(member) && mayLack) this.#say(`${path}.${name}`, 'is demanded');
			this.#sayIfDeprecated(`${path}.${name}`, member);
			this.#compare(way, `${path}.${name}`, this.#checker.getTypeOfSymbol(symbol), member.type!);
		}
		for (const [name, member] of known) {
			if (way === 'sent' && !isOptional(member) && !declared.has(name)) this.#say(`${path}.${name}`, 'is demanded');
		}
		if (this.#isEmpty(type) && known.size > 0) this.#say(path, 'is not empty');
	}

	/** With the members of the variant that the type picks by a literal for the tag, if it does. */
	#knownMembers(type: ts.Type, info: SchemaInfo): Map<string, SchemaMember> {
		const known = new Map(info.members!.map(member => [member.name!, member]));
		const tag = info.tag === undefined ? undefined : type.getProperty(info.tag);
		const picked = tag && this.#checker.getTypeOfSymbol(tag);
		const variant = picked?.isStringLiteral() && info.variants!.find(variant => variant.case === picked.value);
		if (variant) {
			for (const [name, member] of this.#knownMembers(type, this.#schema.get(variant.type)!)) known.set(name, member);
		}
		return known;
	}

	/** `Record<string, never>`. */
	#isEmpty(type: ts.Type): boolean {
		return ((type.getStringIndexType()?.flags ?? 0) & ts.TypeFlags.Never) !== 0;
	}

	#sayIfDeprecated(path: string, {features}: {readonly features?: readonly string[]}): void {
		if (features?.includes('deprecated')) this.#say(path, 'is deprecated');
	}

	#say(path: string, what: string): void {
		this.#found.push(`${path} ${what}`);
	}
}

function isOptional(member: SchemaMember): boolean {
	return 'default' in member;
}
