import {expect, test} from 'vitest';
import type {BlockGraph, Disk} from '../../src/block/graph.ts';
import type {Medium} from '../../src/block/medium.ts';
import {selectDisks} from '../../src/operations/select-disks.ts';
import {UsageError} from '../../src/errors.ts';

function disk(name: string, medium: Partial<Medium> | undefined = {}, rest: Partial<Disk> = {}): Disk {
	const full = {virtualSize: 1024, readOnly: false, filename: `${name}.raw`, ...medium} as Medium;
	return {name, fileName: name, qdev: name, deviceType: 'virtio-blk-device', medium: full, ...rest} as Disk;
}

const empty: Partial<Disk> = {medium: undefined};

function graphOf(...disks: Disk[]): BlockGraph {
	return {disks} as unknown as BlockGraph;
}

function names(graph: BlockGraph, selection: Parameters<typeof selectDisks>[1] = {}): string[] {
	return selectDisks(graph, selection).disks.map(({name}) => name);
}

const graph = graphOf(
	disk('vda'),
	disk('vdb'),
	disk('cd', {readOnly: true}, {deviceType: 'ide-cd'}),
	disk('floppy', {}, empty),
	disk('base', {readOnly: true}),
	disk('loose', {}, {qdev: undefined}),
);

test('takes what the guest can change, and says why it skips the rest', () => {
	expect(names(graph)).toEqual(['vda', 'vdb']);
	expect(selectDisks(graph, {}).skipped).toEqual([
		{name: 'cd', reason: 'it is a CD-ROM: the guest cannot change it'},
		{name: 'floppy', reason: 'the drive is empty'},
		{name: 'base', reason: 'it is read-only: the guest cannot change it'},
		{name: 'loose', reason: 'no device of the guest uses this drive'},
	]);
});

test('leaves out what is excluded', () => {
	const {disks, skipped} = selectDisks(graph, {exclude: ['vda']});
	expect(disks.map(({name}) => name)).toEqual(['vdb']);
	expect(skipped[0]).toEqual({name: 'vda', reason: 'excluded by request'});
});

test('takes only what is asked for, also what it would skip by itself', () => {
	expect(names(graph, {only: ['cd', 'vdb']})).toEqual(['vdb', 'cd']);
	expect(selectDisks(graph, {only: ['vdb']}).skipped).toContainEqual({name: 'vda', reason: 'not asked for'});
	expect(names(graph, {only: ['vda', 'vdb'], exclude: ['vda']})).toEqual(['vdb']);
});

test.each([{only: ['vdz']}, {exclude: ['vdz']}])('a disk that is not there is an error of usage: %j', selection => {
	expect(() => selectDisks(graph, selection)).toThrow(UsageError);
	expect(() => selectDisks(graph, selection)).toThrow("this VM has no disk 'vdz'");
});

test('a disk that cannot be copied is refused, and not silently left out', () => {
	const withPassthrough = graphOf(disk('vda'), disk('lun', {}, {deviceType: 'scsi-block'}));
	expect(() => selectDisks(withPassthrough, {})).toThrow(/^lun cannot be backed up: scsi-block/);
	expect(names(withPassthrough, {exclude: ['lun']})).toEqual(['vda']);
	expect(() => selectDisks(graph, {only: ['floppy']})).toThrow('floppy cannot be backed up: the drive is empty');
	expect(() => selectDisks(graphOf(disk('vda', {virtualSize: 0})), {})).toThrow('has a size of 0');
});

test('a point of nothing is refused', () => {
	expect(() => selectDisks(graph, {exclude: ['vda', 'vdb']})).toThrow('nothing is left to back up');
	expect(() => selectDisks(graphOf(), {})).toThrow('nothing is left to back up');
});
