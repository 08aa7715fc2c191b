export interface Column<Row> {
	readonly title: string;
	readonly value: (row: Row) => string;
	readonly align?: 'left' | 'right';
}

/** Rows under their titles, without lines or boxes. The last column is not padded. */
export function formatTable<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
	const cells = [columns.map(column => column.title), ...rows.map(row => columns.map(column => column.value(row)))];
	const widths = columns.map((_, index) => Math.max(...cells.map(line => line[index]?.length ?? 0)));
	return cells
		.map(line =>
			line
				.map((cell, index) => pad(cell, widths[index] ?? 0, columns[index]?.align ?? 'left'))
				.join('  ')
				.trimEnd(),
		)
		.map(line => `${line}\n`)
		.join('');
}

function pad(cell: string, width: number, align: 'left' | 'right'): string {
	return align === 'right' ? cell.padStart(width) : cell.padEnd(width);
}
