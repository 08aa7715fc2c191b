import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {expect, test} from 'vitest';
import {parseConfig} from '../../src/config/config-file.ts';
import {configSchema} from '../../src/config/config-schema.ts';
import {configJsonSchema} from './config-schema.ts';
import {codeBlocks, project, readPage} from './pages.ts';

const PAGE = 'docs/config.md';

test('the schema for editors is that of the program (`npm run schema` writes it)', () => {
	expect(JSON.parse(readFileSync(join(project, 'docs/quiesce.schema.json'), 'utf8'))).toEqual(
		JSON.parse(configJsonSchema()),
	);
});

test('the page shows a config file that can be read', () => {
	const [text = ''] = codeBlocks(PAGE, 'yaml');
	expect(Object.keys(parseConfig(text, PAGE)).sort()).toEqual(Object.keys(configSchema.entries).sort());
});

test('the page tells of every setting', () => {
	const {backup, hooks} = configSchema.entries;
	const names = [
		...Object.keys(configSchema.entries),
		...Object.keys(backup.wrapped.entries),
		...Object.keys(hooks.wrapped.entries),
	];
	const page = readPage(PAGE);
	expect(names.filter(name => !page.includes(`\`${name}\``))).toEqual([]);
});
