import type {Method, Series} from './series.ts';
import {type Span, worstByBin} from './samples.ts';
import {duration, TITLES} from './table.ts';

const BIN_SECONDS = 0.2;
const SIZE = {width: 860, height: 400};
const AREA = {left: 64, right: 844, top: 48, bottom: 348};

/** Drawn in this order: what is drawn last is on top. */
const ORDER: readonly Method[] = ['none', 'push', 'fleece'];

const STYLE = `
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.back { fill: #ffffff }
.stall { fill: #d0d7de; opacity: 0.55 }
.grid { stroke: #d0d7de; stroke-width: 1 }
.cut { stroke: #59636e; stroke-width: 1; stroke-dasharray: 3 3 }
path { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.none { stroke: #8c959f }
.fleece { stroke: #0969da }
.push { stroke: #cf4a0a }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.back { fill: #0d1117 }
.stall { fill: #30363d; opacity: 0.75 }
.grid { stroke: #30363d }
.cut { stroke: #9198a1 }
.none { stroke: #8b949e }
.fleece { stroke: #58a6ff }
.push { stroke: #ff9b50 }
}
`;

type Scale = (value: number) => number;

/** The slowest write over time, a line a series, as SVG. */
export function plot(all: readonly Series[]): string {
	const [first] = all;
	if (!first) throw new Error('there is nothing to plot');
	const {window} = first;
	const lines = ORDER.flatMap(method => all.filter(series => series.method === method)).map(series => ({
		method: series.method,
		worst: worstByBin(series.samples, window, BIN_SECONDS),
	}));
	const values = lines.flatMap(({worst}) => worst).filter(value => value !== undefined);
	const decades: Span = {
		from: Math.floor(Math.log10(Math.min(...values))),
		to: Math.log10(2 * Math.max(...values)),
	};
	const x = scale(window, AREA.left, AREA.right);
	const y = scale(decades, AREA.bottom, AREA.top);
	const stall = {
		from: Math.min(...all.map(series => series.stall.from)),
		to: Math.max(...all.map(series => series.stall.to)),
	};
	return [
		`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${SIZE.width} ${SIZE.height}" role="img">`,
		'<title>The slowest write of the guest over time, while the target of the backup hangs</title>',
		`<style>${STYLE}</style>`,
		`<rect class="back" width="${SIZE.width}" height="${SIZE.height}"/>`,
		...shade(stall, x),
		...levels(decades, y),
		...times(window, x),
		...lines.map(({method, worst}) => `<path class="${method}" d="${path(worst, window, x, y)}"/>`),
		...legend(all),
		'</svg>',
		'',
	].join('\n');
}

function scale({from, to}: Span, start: number, end: number): Scale {
	return value => start + ((value - from) / (to - from)) * (end - start);
}

function shade({from, to}: Span, x: Scale): string[] {
	const height = AREA.bottom - AREA.top;
	return [
		`<rect class="stall" x="${fixed(x(from))}" y="${AREA.top}" width="${fixed(x(to) - x(from))}" height="${height}"/>`,
		text('the target hangs', x((from + to) / 2), AREA.bottom - 12, 'middle'),
	];
}

function levels({from, to}: Span, y: Scale): string[] {
	const decades = Array.from({length: Math.floor(to) - from + 1}, (_, index) => from + index);
	return decades.flatMap(decade => [
		line('grid', AREA.left, y(decade), AREA.right, y(decade)),
		text(label(decade), AREA.left - 8, y(decade) + 4, 'end'),
	]);
}

function label(decade: number): string {
	return decade < 3 ? `${Number((10 ** decade).toFixed(6))} ms` : `${10 ** (decade - 3)} s`;
}

function times({from, to}: Span, x: Scale): string[] {
	const every = 5;
	const ticks = Array.from({length: Math.floor((to - from) / every) + 1}, (_, index) => from + index * every);
	return [
		...ticks.map(tick => text(tick === 0 ? 'cut' : String(tick), x(tick), AREA.bottom + 20, 'middle')),
		line('cut', x(0), AREA.top, x(0), AREA.bottom),
		text('seconds', (AREA.left + AREA.right) / 2, AREA.bottom + 42, 'middle'),
	];
}

/** Broken where nothing was written. */
function path(worst: readonly (number | undefined)[], window: Span, x: Scale, y: Scale): string {
	return worst
		.map((value, bin) => {
			if (value === undefined) return '';
			const command = worst[bin - 1] === undefined ? 'M' : 'L';
			return `${command}${fixed(x(window.from + (bin + 0.5) * BIN_SECONDS))} ${fixed(y(Math.log10(value)))}`;
		})
		.join('');
}

function legend(all: readonly Series[]): string[] {
	return all.flatMap(({method, samples}, index) => {
		const left = AREA.left + index * 250;
		const worst = duration(samples.reduce((most, {tookMs}) => Math.max(most, tookMs), 0));
		return [
			`<path class="${method}" d="M${left} 24h26"/>`,
			text(`${TITLES[method]} (worst ${worst})`, left + 34, 28, 'start'),
		];
	});
}

function line(kind: string, x1: number, y1: number, x2: number, y2: number): string {
	return `<line class="${kind}" x1="${fixed(x1)}" y1="${fixed(y1)}" x2="${fixed(x2)}" y2="${fixed(y2)}"/>`;
}

function text(words: string, x: number, y: number, anchor: 'start' | 'middle' | 'end'): string {
	return `<text x="${fixed(x)}" y="${fixed(y)}" text-anchor="${anchor}">${words}</text>`;
}

function fixed(value: number): string {
	return String(Number(value.toFixed(1)));
}
