import type {Column} from '../../src/cli/table.ts';
import {percentile, type Sample, within} from './samples.ts';
import type {Method, Series} from './series.ts';

/** How a series is called, in the table and in the plot. */
export const TITLES: Readonly<Record<Method, string>> = {
	none: 'no backup',
	fleece: '--method fleece',
	push: '--method push',
};

export const COLUMNS: readonly Column<Series>[] = [
	{title: 'series', value: series => TITLES[series.method]},
	{title: 'writes', value: ({samples}) => String(samples.length), align: 'right'},
	{title: 'in the stall', value: ({samples, stall}) => String(within(samples, stall).length), align: 'right'},
	{title: 'p50', value: ({samples}) => latency(samples, 50), align: 'right'},
	{title: 'p99', value: ({samples}) => latency(samples, 99), align: 'right'},
	{title: 'p99.9', value: ({samples}) => latency(samples, 99.9), align: 'right'},
	{title: 'max', value: ({samples}) => latency(samples, 100), align: 'right'},
	{title: 'I/O errors', value: ({errors}) => String(errors), align: 'right'},
	{title: 'stood still', value: ({standstill}) => (standstill ? words(standstill) : '-'), align: 'right'},
	{title: 'restored point', value: ({point}) => point?.words ?? '-'},
];

function latency(samples: readonly Sample[], percent: number): string {
	return duration(percentile(samples, percent));
}

function words({of, seconds}: NonNullable<Series['standstill']>): string {
	return `${of === 'vm' ? 'the VM' : 'disks'}, ${duration(seconds * 1e3)}`;
}

/** Three digits, or all before the point. */
export function duration(ms: number): string {
	const [value, unit] = ms < 1000 ? [ms, 'ms'] : [ms / 1000, 's'];
	return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${unit}`;
}

/** As Markdown. */
export function markdownTable(series: readonly Series[]): string {
	const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
	return [
		COLUMNS.map(({title}) => title),
		COLUMNS.map(({align}) => (align === 'right' ? '--:' : '---')),
		...series.map(one => COLUMNS.map(({title, value}) => (title === 'series' ? code(one) : value(one)))),
	]
		.map(line)
		.join('');
}

function code({method}: Series): string {
	return method === 'none' ? TITLES[method] : `\`${TITLES[method]}\``;
}
