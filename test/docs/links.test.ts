import {existsSync, readdirSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {expect, test} from 'vitest';
import {pages, project, proseOf, readPage} from './pages.ts';

/** As the usual renderers make it from a heading. */
function anchorOf(heading: string): string {
	return heading
		.toLowerCase()
		.replaceAll(/[^\p{L}\p{N} _-]/gu, '')
		.replaceAll(' ', '-');
}

function anchorsIn(page: string): string[] {
	return Array.from(proseOf(page).matchAll(/^#+ (?<heading>.+)$/gm), match => anchorOf(match.groups!['heading']!));
}

test.each(pages)('%s links only to files and headings that are there', page => {
	const targets = Array.from(proseOf(page).matchAll(/\]\((?<target>[^)\s]+)\)/g), match => match.groups!['target']!);
	const broken = targets.filter(target => {
		const [file = '', anchor] = target.split('#');
		const linked = file === '' ? page : join(dirname(page), file);
		if (!existsSync(join(project, linked))) return true;
		return anchor !== undefined && !anchorsIn(linked).includes(anchor);
	});
	expect(broken).toEqual([]);
});

const docs = pages.filter(page => page.startsWith('docs/'));

test.each(docs)('%s opens with a command, and leads on', page => {
	expect(readPage(page)).toMatch(/^# .+\n\n```sh\n/);
	expect(proseOf(page)).toMatch(/^(Previous: \[.+\]\(.+\) · )?Next: \[.+\]\(.+\)$/m);
});

test('every page of docs is in its index', () => {
	const index = readPage('docs/README.md');
	const missing = docs.filter(page => page !== 'docs/README.md' && !index.includes(`](${page.slice('docs/'.length)})`));
	expect(missing).toEqual([]);
});

test('the table of layers has the folders of src, and no others', () => {
	const rows = readPage('docs/design.md').matchAll(/^\| `src\/(?<folder>[\w-]+)\/` /gm);
	const folders = readdirSync(join(project, 'src'), {withFileTypes: true}).filter(entry => entry.isDirectory());
	expect(Array.from(rows, row => row.groups!['folder']!).sort()).toEqual(folders.map(({name}) => name).sort());
});
