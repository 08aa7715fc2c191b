/**
 * `npm run faults`: strikes the program with every fault and says what came of it.
 *
 *   --all            at every step, which takes hours; else where most is at stake
 *   --scenario NAME  only this one (may be repeated)
 *   --fault NAME     only this one (may be repeated)
 *   --write-docs     puts what came of it into the table of docs/reliability.md
 */
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import {runCampaign} from './harness/campaign.ts';
import {FAULTS} from './harness/faults/all.ts';
import {lineOf, tableOf, writeTable} from './harness/report.ts';
import {formatTable} from './harness/table.ts';
import {SCENARIOS} from './scenarios/all.ts';

const {values} = parseArgs({
	options: {
		'all': {type: 'boolean', default: false},
		'scenario': {type: 'string', multiple: true},
		'fault': {type: 'string', multiple: true},
		'write-docs': {type: 'boolean', default: false},
	},
});

function named<Thing extends {readonly name: string}>(
	what: string,
	all: readonly Thing[],
	names?: readonly string[],
): readonly Thing[] {
	const unknown = names?.find(name => !all.some(one => one.name === name));
	if (unknown !== undefined) {
		throw new Error(`there is no ${what} ${unknown}, but: ${all.map(({name}) => name).join(', ')}`);
	}
	return all.filter(({name}) => names?.includes(name) ?? true);
}

const scenarios = named('scenario', SCENARIOS, values.scenario);
const faults = named('fault', FAULTS, values.fault);
const results = await runCampaign({
	scenarios,
	faults,
	points: values.all ? 'all' : 'sample',
	tell: result => {
		console.log(lineOf(result));
	},
});
const table = tableOf(results, scenarios, faults);
const columns = scenarios.map(({name}) => name);
const rows = faults.map(({title}) => title);
console.log(`\n${formatTable(table, columns, rows)}`);
if (values['write-docs']) {
	await writeTable(fileURLToPath(new URL('../../docs/reliability.md', import.meta.url)), table, SCENARIOS, FAULTS);
}
process.exitCode = results.every(({wrong}) => wrong.length === 0) ? 0 : 1;
