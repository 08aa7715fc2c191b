import {format, resolveConfig} from 'prettier';
import {readFile, writeFile} from 'node:fs/promises';
import type {Fault} from './fault.ts';
import type {Scenario} from './scenario.ts';
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

const ABSENT = '–';

/** Faults by scenarios, each cell with survived/tried. Notes say what a scenario does not promise. */
export function tableOf(
	results: readonly TrialResult[],
	scenarios: readonly Scenario[],
	faults: readonly Fault[],
): string {
	const notes: string[] = [];
	const rows = faults.map(fault => [
		fault.title,
		...scenarios.map(scenario => cellOf(results, scenario, fault, notes)),
	]);
	const head = ['What goes wrong', ...scenarios.map(({name}) => `\`${name}\``)];
	const table = [head, head.map((_, column) => (column === 0 ? '---' : '--:')), ...rows];
	const text = table.map(row => `| ${row.join(' | ')} |`).join('\n');
	return [text, ...notes.map((note, index) => `${index + 1}. ${note}`)].join('\n\n');
}

function cellOf(results: readonly TrialResult[], scenario: Scenario, fault: Fault, notes: string[]): string {
	const tried = results.filter(
		one => one.scenario === scenario.name && one.fault === fault.name && (one.reached || one.wrong.length > 0),
	);
	if (tried.length === 0) return ABSENT;
	const cell = `${tried.filter(({wrong}) => wrong.length === 0).length}/${tried.length}`;
	const bears = scenario.guestBears?.[fault.name];
	if (bears === undefined) return cell;
	const note = `Not promised by \`${scenario.name}\`, and not counted: ${bears}.`;
	if (!notes.includes(note)) notes.push(note);
	const harmed = tried.filter(({guest}) => guest.errors > 0).length;
	const worst = Math.max(...tried.map(({guest}) => guest.worstMs));
	const harm = `guest errors in ${harmed}, worst write ${(worst / 1000).toFixed(1)} s`;
	return `${cell}, ${harm} (${notes.indexOf(note) + 1})`;
}

const BEGIN = '<!-- results: npm run faults -- --write-docs -->';
const END = '<!-- end of results -->';

/** Puts the table between the page's two marks. */
export async function writeTable(page: string, table: string): Promise<void> {
	const text = await readFile(page, 'utf8');
	const [from, to] = [text.indexOf(BEGIN), text.indexOf(END)];
	if (from < 0 || to < from) throw new Error(`${page} lacks the marks for the table`);
	const after = `${text.slice(0, from)}${BEGIN}\n\n${table}\n\n${text.slice(to)}`;
	await writeFile(page, await format(after, {...(await resolveConfig(page)), filepath: page}));
}
