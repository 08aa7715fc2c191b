import {expect, test} from 'vitest';
import {describeProgram} from '../../src/cli/definitions/describe.ts';
import {runQuiesce} from './run-quiesce.ts';

const {commands, families} = await describeProgram();
const names = ['', ...families.map(({name}) => name), ...commands.map(({name}) => name)];

// `npm test -- test/cli/help.test.ts --update` writes the files anew: look at what has changed in them.
test.each(names)('the help of quiesce %s is as it was, and fits 80 columns', async name => {
	const words = name.split(' ').filter(word => word !== '');
	const {code, stdout, stderr} = await runQuiesce([...words, '--help'], {env: {COLUMNS: '80'}});
	expect({code, stderr}).toEqual({code: 0, stderr: ''});
	expect(stdout.split('\n').filter(line => line.length > 80)).toEqual([]);
	await expect(stdout).toMatchFileSnapshot(`../../fixtures/help/${['quiesce', ...words].join('-')}.txt`);
});
