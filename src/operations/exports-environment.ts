/** An export that a command is to find. */
export interface FoundExport {
	readonly disk: string;
	readonly uri: string;
	readonly sizeBytes: number;
	/** Metadata contexts. */
	readonly contexts?: readonly string[];
	/** The one that says what has changed; null where all may have. */
	readonly changes?: string | null;
}

/** All as JSON, and for each disk its own variables, with `_` for what a variable's name cannot have. */
export function exportsEnvironment(found: readonly FoundExport[]): Record<string, string> {
	const all = found.map(({disk, uri, sizeBytes, contexts = [], changes = null}) => ({
		...{disk, uri, size_bytes: sizeBytes, contexts, changes},
	}));
	const own = all.flatMap(({disk, uri, changes}): [string, string][] => {
		const name = disk.replaceAll(/[^A-Za-z0-9_]/g, '_');
		return [
			[`QUIESCE_URI_${name}`, uri],
			[`QUIESCE_CHANGES_${name}`, changes ?? ''],
		];
	});
	return Object.fromEntries([['QUIESCE_EXPORTS', JSON.stringify(all)], ...own]);
}
