import {join} from 'node:path';
import ts from 'typescript';
import {expect, test} from 'vitest';
import {codeBlocks, project} from './pages.ts';

/** What the compiler says of a file that is not on the disk, next to the project's own. */
function typeErrors(code: string): string[] {
	const {config} = ts.readConfigFile(join(project, 'tsconfig.json'), file => ts.sys.readFile(file)) as {config: object};
	const {options} = ts.parseJsonConfigFileContent({...config, include: [], files: []}, ts.sys, project);
	const example = join(project, 'example.ts');
	const disk = ts.createCompilerHost(options);
	const host: ts.CompilerHost = {
		...disk,
		fileExists: file => file === example || disk.fileExists(file),
		getSourceFile: (file, target, ...rest) =>
			file === example ? ts.createSourceFile(file, code, target) : disk.getSourceFile(file, target, ...rest),
	};
	const program = ts.createProgram([example], options, host);
	const diagnostics = ts.getPreEmitDiagnostics(program, program.getSourceFile(example));
	return diagnostics.map(({messageText}) => ts.flattenDiagnosticMessageText(messageText, '\n'));
}

const examples = codeBlocks('docs/library.md', 'ts');

test('the page on the library has examples', () => {
	expect(examples.length).toBeGreaterThan(1);
});

test.each(examples)('the example compiles: %#', example => {
	expect(typeErrors(example)).toEqual([]);
});

test('an example that is wrong would be found', () => {
	const [error] = typeErrors(examples[0]!.replace("sink: 'daemon'", "sink: 'drain'"));
	expect(error).toContain('drain');
});
