import fc from 'fast-check';
import {expect, test} from 'vitest';
import {newRunId, objectName, runOf} from '../../src/block/names.ts';

/** What util/id.c takes for an id, and block.c for the length of a node's name. */
const NODE_NAME = /^[A-Za-z][A-Za-z0-9._-]{0,30}$/;
const ROLES = [undefined, 'target', 'filter', 'scratch'] as const;

test('whatever a disk is called, the names of its objects are ones that QEMU takes, and tell their run', () => {
	fc.assert(
		fc.property(fc.string({unit: 'grapheme', minLength: 1}), fc.constantFrom(...ROLES), (disk, role) => {
			const run = newRunId();
			const name = objectName(run, disk, role);
			expect(name).toMatch(NODE_NAME);
			expect(runOf(name)).toBe(run);
		}),
	);
});

test('disks of different names, and objects of different roles, have different names', () => {
	fc.assert(
		fc.property(fc.uniqueArray(fc.string({minLength: 1}), {minLength: 2, maxLength: 8}), disks => {
			const names = disks.flatMap(disk => ROLES.map(role => objectName('abc123', disk, role)));
			expect(new Set(names).size).toBe(names.length);
		}),
	);
});

test('a short plain name is kept for people to read', () => {
	expect(objectName('abc123', 'virtio0', 'target')).toBe('qsc-abc123-virtio0-target');
	expect(objectName('abc123', '/machine/peripheral-anon/device[0]')).toMatch(/^qsc-abc123-machi\.[0-9a-f]{6}$/);
	expect(objectName('abc123', 'disk-of-14-let', 'filter')).toMatch(/^qsc-abc123-disko\.[0-9a-f]{6}-filter$/);
});

test.each([
	'vda',
	'#block123',
	'qsc-',
	'qsc-abc123',
	'qsc-abc12-vda',
	'qsc-abc1234-vda',
	'qsc-abcILO-vda',
	'my-qsc-abc123-vda',
	'QSC-abc123-vda',
])("'%s' is not ours", name => {
	expect(runOf(name)).toBeUndefined();
});

test('the ids of runs are as long as names have room for, and differ', () => {
	const ids = Array.from({length: 100}, newRunId);
	expect(new Set(ids).size).toBe(100);
	for (const id of ids) expect(id).toMatch(/^[0-9a-z]{6}$/);
});
