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

/** JSON with the names that it came with, in which nothing can steer a terminal. */
export function rawJson(value: unknown, indent = 0): string {
	return JSON.stringify(value, null, indent).replaceAll(/(?!\n)[\p{Cc}\p{Cf}\u2028\u2029]/gu, letter =>
		Array.from({length: letter.length}, (_, at) => `\\u${letter.charCodeAt(at).toString(16).padStart(4, '0')}`).join(
			'',
		),
	);
}
