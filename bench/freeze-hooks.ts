/**
 * What a freeze costs applications that commit all the time, and whether a copy taken in it has all that they committed:
 * the table of docs/freeze-hooks.md. Needs root.
 */
import {parseArgs} from 'node:util';
import {FREEZE_HOOKS} from '../src/freeze-hooks/kit.ts';
import {APPLICATIONS} from '../test/freeze-hooks/applications/all.ts';
import type {Application} from '../test/freeze-hooks/applications/application.ts';
import {copyOf, frozenCopy} from '../test/freeze-hooks/frozen-copy.ts';
import {run} from '../test/freeze-hooks/running.ts';
import {Writer} from '../test/freeze-hooks/writer.ts';
import {median} from './measured-program.ts';

const {values} = parseArgs({options: {times: {type: 'string', default: '5'}}});

interface Measured {
	readonly freezeMs: number;
	readonly copyMs: number;
	readonly thawMs: number;
	readonly longestMs: number;
	/** In the copy. */
	readonly transactions: number;
	/** Committed before the copy was taken, and not in it. */
	readonly lost: number;
}

async function measure(application: Application): Promise<Measured> {
	await using stack = new AsyncDisposableStack();
	const scope = stack.defer.bind(stack);
	const running = await run(scope, application);
	const writer = new Writer(running.server, running.client());
	await writer.begin();
	await writer.more(500);
	writer.longestMs = 0;
	const copy = await frozenCopy(running, writer);
	await writer.more(100);
	await writer.end();
	const transactions = Math.min(...(await copyOf(scope, application, running)).map(({count}) => count));
	return {...copy, longestMs: writer.longestMs, transactions, lost: Math.max(0, copy.committed - transactions)};
}

console.log('| Application | Method | Freeze | Copy | Thaw | Longest wait of a commit | Transactions checked | Lost |');
console.log('| --- | --- | --- | --- | --- | --- | --- | --- |');
for (const application of APPLICATIONS) {
	const all: Measured[] = [];
	for (let time = 0; time < Number(values.times); time++) all.push(await measure(application));
	const ms = (of: 'freezeMs' | 'copyMs' | 'thawMs' | 'longestMs'): string =>
		`${median(all.map(one => one[of])).toFixed(0)} ms`;
	const sum = (of: 'transactions' | 'lost'): number => all.reduce((total, one) => total + one[of], 0);
	const method = FREEZE_HOOKS.find(({name}) => name === application.hook)?.method ?? '';
	const times = `${ms('freezeMs')} | ${ms('copyMs')} | ${ms('thawMs')} | ${ms('longestMs')}`;
	console.log(`| ${application.title} | ${method} | ${times} | ${sum('transactions')} | ${sum('lost')} |`);
}
