import {expect, onTestFinished, test} from 'vitest';
import {APPLICATIONS} from './applications/all.ts';
import {copyOf, frozenCopy} from './frozen-copy.ts';
import {run} from './running.ts';
import {Writer} from './writer.ts';

test.each(APPLICATIONS)('$title: the copy of a frozen disk holds all that was committed', async application => {
	const running = await run(onTestFinished, application);
	const writer = new Writer(running.server, running.client());
	await writer.begin();
	await writer.more(200);
	const {issued, committed} = await frozenCopy(running, writer);
	await writer.more(200);
	await writer.end();
	const counts = await copyOf(onTestFinished, application, running);
	for (const {count, last, sum} of counts) {
		expect(last).toBe(count);
		expect(sum).toBe((count * (count + 1)) / 2);
		expect(count).toBeGreaterThanOrEqual(committed);
		expect(count).toBeLessThanOrEqual(issued);
	}
	const [orders, items, log] = counts.map(({count}) => count);
	expect(items).toBe(orders);
	if (log !== undefined) expect([orders, orders! - 1]).toContain(log);
});
