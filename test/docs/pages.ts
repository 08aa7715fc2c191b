import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';

export const project = join(import.meta.dirname, '../..');

/** The pages for people, as paths from the project's folder. */
export const pages: readonly string[] = [
	...['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'],
	...readdirSync(join(project, 'docs'))
		.filter(name => name.endsWith('.md'))
		.map(name => `docs/${name}`),
];

export function readPage(page: string): string {
	return readFileSync(join(project, page), 'utf8');
}

/** What is between fences that name this language, in order. */
export function codeBlocks(page: string, language: string): string[] {
	return Array.from(
		readPage(page).matchAll(/^```(?<language>\w*)\n(?<code>.*?)^```$/gms),
		match => match.groups!,
	).flatMap(groups => (groups['language'] === language ? [groups['code']!] : []));
}

/** The page without its code blocks. */
export function proseOf(page: string): string {
	return readPage(page).replaceAll(/^```.*?^```$/gms, '');
}
