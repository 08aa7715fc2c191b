import {expect, test} from 'vitest';
import {QmpSchema} from '../../src/qmp/introspection.ts';
import {readSchema, replay, repliesOf, versions} from './recordings.ts';

test.for(versions)('the schema of QEMU %s is walked from its commands', version => {
	const schema = readSchema(version);
	expect(schema.hasCommand('blockdev-backup')).toBe(true);
	expect(schema.hasCommand('JOB_STATUS_CHANGE')).toBe(false);
	expect(schema.hasCommand('0')).toBe(false);
	expect(schema.hasEvent('JOB_STATUS_CHANGE')).toBe(true);
	expect(schema.hasEvent('blockdev-backup')).toBe(false);

	expect(schema.hasArgument('blockdev-backup', 'bitmap-mode')).toBe(true);
	expect(schema.hasArgument('blockdev-backup', 'no-such-argument')).toBe(false);
	expect(schema.hasArgument('blockdev-backup', '+bitmap-mode')).toBe(false);
	expect(schema.hasArgument('no-such-command', 'job-id')).toBe(false);
	expect(schema.hasArgument('blockdev-add', '+copy-before-write', 'on-cbw-error')).toBe(true);
	expect(schema.hasArgument('blockdev-add', '+throttle', 'on-cbw-error')).toBe(false);
	expect(schema.hasArgument('blockdev-add', 'on-cbw-error')).toBe(false);
	expect(schema.hasArgument('block-export-add', '+nbd', 'bitmaps', 'node')).toBe(true);

	expect(schema.enumHas('blockdev-backup', ['sync'], 'bitmap')).toBe(true);
	expect(schema.enumHas('blockdev-backup', ['sync'], 'sideways')).toBe(false);
	expect(schema.enumHas('blockdev-backup', ['job-id'], 'bitmap')).toBe(false);
	expect(schema.enumHas('transaction', ['actions', 'type'], 'blockdev-backup')).toBe(true);
	expect(schema.enumHas('transaction', ['actions', '+blockdev-backup', 'data', 'sync'], 'none')).toBe(true);

	expect(schema.hasReturn('query-block', 'inserted', 'node-name')).toBe(true);
	expect(schema.hasReturn('query-block', 'node-name')).toBe(false);
});

test('an enum of old, without members, is read by its values', () => {
	const schema = new QmpSchema([
		{'name': 'sleep', 'meta-type': 'command', 'arg-type': '1', 'ret-type': '0'},
		{'name': '1', 'meta-type': 'object', 'members': [{name: 'mode', type: '2'}]},
		{'name': '2', 'meta-type': 'enum', 'values': ['deep']},
	]);
	expect(schema.enumHas('sleep', ['mode'], 'deep')).toBe(true);
	expect(schema.enumHas('sleep', ['mode'], 'light')).toBe(false);
});

test('types that contain themselves, or that are missing, come to an end', () => {
	const schema = new QmpSchema([
		{'name': 'loop', 'meta-type': 'command', 'arg-type': '[1]', 'ret-type': 'gone'},
		{'name': '[1]', 'meta-type': 'array', 'element-type': '1'},
		{'name': '1', 'meta-type': 'alternate', 'members': [{type: '[1]'}, {type: '1'}, {type: '2'}]},
		{'name': '2', 'meta-type': 'object', 'members': [{name: 'again', type: '[1]'}]},
	]);
	expect(schema.hasArgument('loop', 'again', 'again', 'again')).toBe(true);
	expect(schema.hasArgument('loop', 'again', 'never')).toBe(false);
	expect(schema.hasReturn('loop', 'anything')).toBe(false);
});

test('the schema is asked of a monitor', async () => {
	const replies = {...repliesOf('7.2', 'empty'), 'query-qmp-schema': [{'name': 'stop', 'meta-type': 'command'}]};
	expect((await QmpSchema.read(replay(replies))).hasCommand('stop')).toBe(true);
});
