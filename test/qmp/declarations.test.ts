import path from 'node:path';
import ts from 'typescript';
import {expect, test} from 'vitest';
import {declareTypes} from '../../src/qmp/declarations.ts';
import {QmpSchema} from '../../src/qmp/introspection.ts';
import {RECORDED, recordedSchema} from './recorded-schema.ts';

const ROOT = path.join(import.meta.dirname, '../..');

/** What the compiler has against a program that imports the declarations from `./qemu.ts`. */
function errorsOf(declarations: string, program: string): string[] {
	const options: ts.CompilerOptions = {
		...{strict: true, noEmit: true, skipLibCheck: true, allowImportingTsExtensions: true, types: ['node']},
		...{target: ts.ScriptTarget.ESNext, module: ts.ModuleKind.NodeNext, verbatimModuleSyntax: true},
		exactOptionalPropertyTypes: true,
	};
	const here = import.meta.dirname;
	const files = new Map([
		[path.join(here, 'qemu.ts'), declarations],
		[path.join(here, 'program.ts'), program],
	]);
	const host = ts.createCompilerHost(options);
	const fromDisk = {...host};
	host.fileExists = file => files.has(file) || fromDisk.fileExists(file);
	host.readFile = file => files.get(file) ?? fromDisk.readFile(file);
	host.getSourceFile = (file, languageVersion, ...rest) => {
		const text = files.get(file);
		return text === undefined
			? fromDisk.getSourceFile(file, languageVersion, ...rest)
			: ts.createSourceFile(file, text, languageVersion, true);
	};
	const compiled = ts.createProgram([...files.keys()], options, host);
	return [...files.keys()].flatMap(file => {
		const source = compiled.getSourceFile(file);
		const found = [...compiled.getSyntacticDiagnostics(source), ...compiled.getSemanticDiagnostics(source)];
		return found.map(({messageText, start = 0}) => {
			const line = (source?.getLineAndCharacterOfPosition(start).line ?? 0) + 1;
			return `${path.basename(file)}:${line} ${ts.flattenDiagnosticMessageText(messageText, ' ').slice(0, 300)}`;
		});
	});
}

const PROGRAM = `
import {QmpConnection} from '${ROOT}/src/qmp/connection.ts';
import type {QmpCommands, QmpEvents} from './qemu.ts';

const qmp = await QmpConnection.open<QmpCommands, QmpEvents>({unix: '/run/a.qmp'});
const running: boolean = (await qmp.execute('query-status')).running;
const sizes: number[] = (await qmp.execute('query-named-block-nodes', {flat: true})).map(node => node.image['virtual-size']);
await qmp.execute('query-named-block-nodes');
await qmp.execute('blockdev-add', {'driver': 'qcow2', 'node-name': 'a', 'file': {driver: 'file', filename: '/a'}});
await qmp.execute('transaction', {
	actions: [{type: 'blockdev-backup', data: {'device': 'a', 'target': 'b', 'sync': 'full', 'job-id': 'c'}}],
});
qmp.on('BLOCK_JOB_COMPLETED').subscribe(({data}) => console.log(data.device, data.error, running, sizes));
`;

test.each(RECORDED)('all of QEMU %s becomes types, which the client takes', version => {
	const declarations = declareTypes(recordedSchema(version), version);
	expect(errorsOf(declarations, PROGRAM)).toEqual([]);
	for (const {name} of recordedSchema(version).commands)
		expect(declarations).toMatch(new RegExp(`^\\t"?${name}"?: `, 'm'));
	for (const {name} of recordedSchema(version).events) expect(declarations).toContain(`\t${name}: `);
});

test('what a QEMU does not take does not compile', () => {
	const head = PROGRAM.split('\n').slice(0, 5).join('\n');
	const wrong = [
		"await qmp.execute('query-stat');",
		"await qmp.execute('blockdev-del');",
		"await qmp.execute('blockdev-del', {'node-name': 3});",
		"await qmp.execute('blockdev-add', {driver: 'qcow3'});",
		"await qmp.execute('blockdev-add', {driver: 'file', filename: '/a', 'lazy-refcounts': true});",
		"await qmp.execute('query-status', {});",
		"qmp.on('BLOCK_JOB_COMPLETE');",
	];
	const errors = errorsOf(declareTypes(recordedSchema('11.1'), '11.1'), [head, ...wrong].join('\n'));
	const lines = new Set(errors.map(error => Number(/^program\.ts:(\d+)/.exec(error)?.[1])));
	expect([...lines]).toEqual(wrong.map((_, index) => index + 6));
});

test('types are called after the commands that use them', () => {
	const declarations = declareTypes(recordedSchema('11.1'), '11.1');
	expect(declarations).toContain('export interface QueryStatusResult {');
	expect(declarations).toContain('"block-job-pause": {arguments: BlockJobPauseArguments; return: QmpNothing};');
	expect(declarations).toContain('All commands and events of QEMU 11.1');
	expect(declarations).toMatch(/\/\*\* @deprecated \*\/\n\t"block-job-pause"/);
});

test('a hostile monitor can put nothing but declarations into the file', () => {
	const evil = '*/ process.exit(1); /*';
	const schema = new QmpSchema([
		{'name': evil, 'meta-type': 'command', 'arg-type': '1', 'ret-type': '2', 'features': [evil, 'unstable']},
		{'name': `${evil}\n`, 'meta-type': 'event', 'arg-type': '1'},
		{
			'name': '1',
			'meta-type': 'object',
			'members': [
				{name: `"; ${evil}`, type: '3'},
				{name: '\u2028', type: 'gone'},
			],
		},
		{'name': '2', 'meta-type': 'array', 'element-type': '1'},
		{'name': '3', 'meta-type': 'enum', 'members': [{name: '`${evil}`'}, {name: "'\\"}]},
	]);
	const source = ts.createSourceFile('qemu.ts', declareTypes(schema, evil), ts.ScriptTarget.ESNext, true);
	expect(source.statements.every(one => ts.isInterfaceDeclaration(one) || ts.isTypeAliasDeclaration(one))).toBe(true);
	expect(errorsOf(source.text, '')).toEqual([]);
});
