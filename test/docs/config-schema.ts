/** Prints the JSON schema of config files, for editors: docs/quiesce.schema.json. */
import {toJsonSchema} from '@valibot/to-json-schema';
import {configSchema} from '../../src/config/config-schema.ts';

export function configJsonSchema(): string {
	// What no JSON schema can tell is left to `config check`.
	const schema = toJsonSchema(configSchema, {typeMode: 'input', errorMode: 'ignore'});
	return `${JSON.stringify({title: 'The config file of quiesce', ...schema}, null, '\t')}\n`;
}

if (import.meta.main) process.stdout.write(configJsonSchema());
