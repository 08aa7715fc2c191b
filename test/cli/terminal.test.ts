import {expect, test} from 'vitest';
import {FakeAgent, type AgentScript, answering, usual} from '../support/fake-agent.ts';
import {startQemu} from '../support/real-qemu.ts';
import {runQuiesce} from './run-quiesce.ts';
import {guestName, temporaryFolder} from './scene.ts';

const HOSTILE = '\u001b[2J\u001b]0;owned\u0007\u009b31m\u202etxt\r\nquiesce: all is well';
const CONTROL = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e]/;

test.each<[string, AgentScript]>([
	[
		'refuses to freeze',
		answering({...usual, 'guest-fsfreeze-freeze': {error: {class: 'GenericError', desc: HOSTILE}}}),
	],
	['tells its version', answering({...usual, 'guest-info': {return: {version: HOSTILE, supported_commands: []}}})],
	['tells its state', answering({...usual, 'guest-fsfreeze-status': {return: HOSTILE}})],
	['fails to thaw', answering({...usual, 'guest-fsfreeze-thaw': {error: {class: 'GenericError', desc: HOSTILE}}})],
])('what a hostile agent says when it %s cannot steer the terminal', async (_what, script) => {
	const agent = await FakeAgent.listen(script);
	for (const args of [['freeze', '--', 'true'], ['thaw'], ['thaw', '--json']]) {
		const [command = '', ...rest] = args;
		const ended = await runQuiesce([command, '--agent', agent.address.unix, ...rest]);
		expect(ended.stdout).not.toMatch(CONTROL);
		expect(ended.stderr).not.toMatch(CONTROL);
		expect(ended.stderr).not.toMatch(/^quiesce: all is well/m);
	}
});

test('the names that a monitor tells cannot steer the terminal', async () => {
	const name = guestName(`\u001b[31mred\u0007`);
	const qemu = await startQemu('-name', name, '-machine', 'q35');
	await using folder = await temporaryFolder();
	for (const args of [
		['inspect', '--qmp', qemu.qmpPath],
		['discover'],
		['backup', '--qmp', qemu.qmpPath, '-r', folder.path],
	]) {
		const ended = await runQuiesce(args);
		expect(ended.stdout).not.toMatch(CONTROL);
		expect(ended.stderr).not.toMatch(CONTROL);
	}
});
