/**
 * What a JSON value is made of: names, and the types of what they stand for. Kinds of messages and of things stay as they are. Of
 * a list one shape is left, or as many as there are that differ.
 */
function shapeOf(value: unknown, name = ''): unknown {
	if (value === null) return null;
	if (Array.isArray(value)) return distinct(value.map(one => shapeOf(one)));
	if (typeof value === 'object') {
		return Object.fromEntries(
			Object.entries(value)
				.sort(([one], [other]) => (one < other ? -1 : 1))
				.map(([key, member]) => [key, OPEN.has(key) ? 'as it is' : shapeOf(member, key)]),
		);
	}
	return KINDS.has(name) ? value : typeof value;
}

/** Their values are few, and an interface. */
const KINDS = new Set([
	'message_type',
	'kind',
	'state',
	'consistency',
	'code',
	'exit_code',
	'exit_status',
	'change',
	'decision',
	'power',
]);

/** What is in them depends on the machine, or is QEMU's. */
const OPEN = new Set(['machine', 'boot', 'argv', 'capabilities', 'data', 'hashes', 'features']);

/** The shapes of lines, each once. Lines of progress may come or not, and warnings are of this machine. */
export function shapesOfLines(stdout: string): unknown[] {
	const lines = stdout.split('\n').filter(line => line !== '');
	const values = lines.map(line => JSON.parse(line) as unknown);
	return distinct(values.filter(value => !isPassing(value)).map(value => shapeOf(value)));
}

function isPassing(value: unknown): boolean {
	const {message_type: type} = value as {message_type?: string};
	return ['progress', 'checking', 'storing', 'settling', 'recovered', 'warning'].includes(type ?? '');
}

function distinct(shapes: readonly unknown[]): unknown[] {
	return [...new Map(shapes.map(shape => [JSON.stringify(shape), shape])).values()];
}
