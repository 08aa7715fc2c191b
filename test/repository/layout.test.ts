import fc from 'fast-check';
import {expect, test} from 'vitest';
import {decodeVmName, encodeVmName, isImageFileName, parsePartialFolderName} from '../../src/repository/layout.ts';
import {comparePointIds, isPointId, pointId} from '../../src/repository/point-id.ts';

test('any name of a VM becomes one safe component of a path, and comes back', () => {
	fc.assert(
		fc.property(fc.string({unit: 'grapheme', minLength: 1, maxLength: 15}), vm => {
			fc.pre(Buffer.byteLength(vm) <= 60);
			const folder = encodeVmName(vm);
			expect(folder).toMatch(/^[A-Za-z0-9_%-][A-Za-z0-9._%-]*$/);
			expect(decodeVmName(folder)).toBe(vm);
		}),
	);
	expect(encodeVmName('web-1.example')).toBe('web-1.example');
	expect(encodeVmName('..')).toBe('%2E.');
	expect(encodeVmName('a/b ü')).toBe('a%2Fb%20%C3%BC');
});

test('names that cannot be kept are refused, folders of others ignored', () => {
	for (const vm of ['', '\ud800', 'x'.repeat(300)])
		expect(() => encodeVmName(vm)).toThrow('cannot be the name of a VM');
	for (const folder of ['', '.x', 'a%2fb', 'a%', '%41', 'a b', 'ü']) expect(decodeVmName(folder)).toBeUndefined();
});

test('ids are sorted by time and then by number', () => {
	const [time, later] = [new Date('2026-11-21T08:00:00.999Z'), new Date('2026-11-21T08:00:01.000Z')];
	const ids = [1, 2, 9, 10, 11].map(nth => pointId(time, nth)).concat(pointId(later, 1));
	expect(ids.slice(0, 2)).toEqual(['2026-11-21T08-00-00Z', '2026-11-21T08-00-00Z-2']);
	expect(ids.toReversed().sort(comparePointIds)).toEqual(ids);
	expect(ids.every(isPointId)).toBe(true);
	for (const id of ['2026-11-21T08-00-00Z-1', '2026-11-21T08-00-00Z-0', '2026-11-21', '..', '.2026-11-21T08-00-00Z']) {
		expect(isPointId(id)).toBe(false);
	}
});

test('partial folders bear the id of their point', () => {
	expect(parsePartialFolderName('.2026-11-21T08-00-00Z-2.partial')).toBe('2026-11-21T08-00-00Z-2');
	expect(parsePartialFolderName('.x.partial')).toBeUndefined();
	expect(parsePartialFolderName('2026-11-21T08-00-00Z')).toBeUndefined();
});

test('only plain names are images', () => {
	expect(isImageFileName('drive-virtio0.qcow2')).toBe(true);
	for (const file of [
		'.qcow2',
		'../a.qcow2',
		'a/b.qcow2',
		'-a.qcow2',
		'a.raw',
		'a\n.qcow2',
		`${'a'.repeat(250)}.qcow2`,
	]) {
		expect(isImageFileName(file)).toBe(false);
	}
});
