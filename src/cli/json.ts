/** The program's JSON has one spelling: `snake_case`, as operators' other tools have. */
export function toJson(value: unknown): string {
	return JSON.stringify(snakeKeys(value));
}

function snakeKeys(value: unknown): unknown {
	if (Array.isArray(value)) return value.map(snakeKeys);
	if (typeof value !== 'object' || value === null) return value;
	return Object.fromEntries(Object.entries(value).map(([key, member]) => [snakeCase(key), snakeKeys(member)]));
}

function snakeCase(key: string): string {
	return key.replaceAll(/[A-Z]/g, letter => `_${letter.toLowerCase()}`);
}
