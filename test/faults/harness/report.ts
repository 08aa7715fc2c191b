import {format, resolveConfig} from 'prettier';
import {readFile, writeFile} from 'node:fs/promises';
import type {Fault} from './fault.ts';
import type {Scenario} from './scenario.ts';
import {type Cell, formatTable, mergeTables, parseTable, type Table} from './table.ts';
import type {TrialResult} from './trial.ts';

/** One trial, in a line; what is wrong below it. */
export function lineOf({scenario, fault, point, reached, wrong, guest, ms, transcript}: TrialResult): string {
	const where = point.recoveryStep === undefined ? point.step : `${point.step}, then ${point.recoveryStep}`;
	const verdict = wrong.length > 0 ? 'FAILED' : reached ? 'survived' : 'not reached';
	const harm = `worst guest write ${Math.round(guest.worstMs)} ms, pause ${Math.round(guest.pausedMs)} ms${guest.errors > 0 ? `, ${guest.errors} errors` : ''}`;
	const line = `${verdict}: ${scenario}, ${fault} at ${where} (${harm}; ${(ms / 1000).toFixed(1)} s)`;
	if (wrong.length === 0) return line;
	return [line, ...wrong.map(what => `  ${what}`), `  transcript: ${transcript ?? 'none'}`].join('\n');
}

/** What was not tried has no cell. */
export function tableOf(
	results: readonly TrialResult[],
	scenarios: readonly Scenario[],
	faults: readonly Fault[],
): Table {
	const cellsOf = (fault: Fault): [string, Cell][] =>
		scenarios.flatMap(scenario => {
			const cell = cellOf(results, scenario, fault);
			return cell ? [[scenario.name, cell]] : [];
		});
	return new Map(faults.map(fault => [fault.title, new Map(cellsOf(fault))]));
}

function cellOf(results: readonly TrialResult[], scenario: Scenario, fault: Fault): Cell | undefined {
	const tried = results.filter(
		one => one.scenario === scenario.name && one.fault === fault.name && (one.reached || one.wrong.length > 0),
	);
	if (tried.length === 0) return undefined;
	const text = `${tried.filter(({wrong}) => wrong.length === 0).length}/${tried.length}`;
	const bears = scenario.guestBears?.[fault.name];
	if (bears === undefined) return {text};
	const harmed = tried.filter(({guest}) => guest.errors > 0).length;
	const worst = Math.max(...tried.map(({guest}) => guest.worstMs));
	return {
		text: `${text}, guest errors in ${harmed}, worst write ${(worst / 1000).toFixed(1)} s`,
		note: `Not promised, and not counted: ${bears}.`,
	};
}

const BEGIN = '<!-- results: npm run faults -- --write-docs -->';
const END = '<!-- end of results -->';

/** Puts what was found into the table between the page's two marks. What was not tried now stays as it was found earlier. */
export async function writeTable(
	page: string,
	found: Table,
	scenarios: readonly Scenario[],
	faults: readonly Fault[],
): Promise<void> {
	const text = await readFile(page, 'utf8');
	const [from, to] = [text.indexOf(BEGIN), text.indexOf(END)];
	if (from < 0 || to < from) throw new Error(`${page} lacks the marks for the table`);
	const [columns, rows] = [scenarios.map(({name}) => name), faults.map(({title}) => title)];
	const table = formatTable(mergeTables(parseTable(text.slice(from + BEGIN.length, to)), found), columns, rows);
	const after = `${text.slice(0, from)}${BEGIN}\n\n${table}\n\n${text.slice(to)}`;
	await writeFile(page, await format(after, {...(await resolveConfig(page)), filepath: page}));
}
