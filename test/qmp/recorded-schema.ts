import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {QmpSchema} from '../../src/qmp/introspection.ts';

export const RECORDED = ['7.2', '10.0', '11.1'] as const;

/** What `query-qmp-schema` returned of a QEMU. */
export function recordedSchema(version: (typeof RECORDED)[number]): QmpSchema {
	const file = join(import.meta.dirname, '../../fixtures/qmp-schema', `${version}.json`);
	return new QmpSchema(JSON.parse(readFileSync(file, 'utf8')) as unknown[]);
}
