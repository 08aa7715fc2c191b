import fs from 'node:fs';

/** This program's version, from its package. */
export function programVersion(): string {
	const text = fs.readFileSync(new URL('../package.json', import.meta.url), 'utf8');
	return (JSON.parse(text) as {version: string}).version;
}
