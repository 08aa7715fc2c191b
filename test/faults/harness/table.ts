/** What came of it, in the document: each fault's title, and by the names of scenarios what that row has of them. */
export type Table = ReadonlyMap<string, ReadonlyMap<string, Cell>>;

export interface Cell {
	readonly text: string;
	/** Below the table, under a number. */
	readonly note?: string | undefined;
}

const ABSENT = '–';

/** Where a row or a column is in both, what is in the newer one. */
export function mergeTables(older: Table, newer: Table): Table {
	const titles = new Set([...older.keys(), ...newer.keys()]);
	return new Map(
		[...titles].map(title => [title, new Map([...(older.get(title) ?? []), ...(newer.get(title) ?? [])])]),
	);
}

/** In Markdown, with those columns and rows. */
export function formatTable(table: Table, columns: readonly string[], rows: readonly string[]): string {
	const notes: string[] = [];
	const textOf = ({text, note}: Cell = {text: ABSENT}): string => {
		if (note === undefined) return text;
		if (!notes.includes(note)) notes.push(note);
		return `${text} (${notes.indexOf(note) + 1})`;
	};
	const lines = [
		['What goes wrong', ...columns.map(name => `\`${name}\``)],
		['---', ...columns.map(() => '--:')],
		...rows.map(title => [title, ...columns.map(name => textOf(table.get(title)?.get(name)))]),
	];
	const text = lines.map(cells => `| ${cells.join(' | ')} |`).join('\n');
	return [text, ...notes.map((note, index) => `${index + 1}. ${note}`)].join('\n\n');
}

/** What {@link formatTable} made, however it was laid out since. */
export function parseTable(text: string): Table {
	const lines = text.split('\n');
	const notes = new Map(lines.flatMap(line => partsOf(/^(\d+)\. (.*)$/, line)));
	const [head = [], , ...rows] = lines.filter(line => line.startsWith('|')).map(cellsOf);
	const columns = head.slice(1).map(name => name.replaceAll('`', ''));
	const cellOf = (text: string): Cell => {
		const [[plain, number] = [text, '']] = partsOf(/^(.*) \((\d+)\)$/, text);
		return {text: plain, note: notes.get(number)};
	};
	return new Map(
		rows.map(([title = '', ...cells]) => [
			title,
			new Map(columns.flatMap((name, at) => (cells[at] === ABSENT ? [] : [[name, cellOf(cells[at] ?? '')]]))),
		]),
	);
}

function cellsOf(line: string): string[] {
	return line
		.split('|')
		.slice(1, -1)
		.map(cell => cell.trim());
}

function partsOf(pattern: RegExp, text: string): [string, string][] {
	const [, one, other] = pattern.exec(text) ?? [];
	return one === undefined || other === undefined ? [] : [[one, other]];
}
