import fs from 'node:fs';
import path from 'node:path';
import {expect} from 'vitest';
import {readBlockGraph} from '../../src/block/read-graph.ts';
import type {DiskWithMedium} from '../../src/operations/select-disks.ts';
import {openVm} from '../../src/operations/vm-session.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import type {WrittenVm} from './written-vm.ts';

/** Puts an overlay on a disk, as any program may; with bitmaps on it of these names. Returns its file. */
export async function putOverlay(
	written: WrittenVm,
	disk: string,
	name: string,
	bitmaps: readonly string[] = [],
): Promise<string> {
	const [below] = await chainOf(written, disk);
	const file = path.join(written.folder, `${disk}.${name}.qcow2`);
	qemuImg('create', '-q', '-f', 'qcow2', '-b', below.filename, '-F', 'qcow2', file);
	await written.execute('blockdev-add', {
		'driver': 'qcow2',
		'node-name': `${disk}-${name}`,
		'discard': 'unmap',
		'file': {driver: 'file', filename: file},
		'backing': null,
	});
	const node = `${disk}-${name}`;
	await written.execute('transaction', {
		actions: [
			{type: 'blockdev-snapshot', data: {node: below.name, overlay: node}},
			...bitmaps.map(bitmap => ({
				type: 'block-dirty-bitmap-add',
				data: {node, name: bitmap, persistent: true, granularity: 65536},
			})),
		],
	});
	return file;
}

export async function diskOf({vm}: WrittenVm, disk: string): Promise<DiskWithMedium> {
	const session = await openVm({qmp: {unix: vm.qmpPath}});
	try {
		const {disks} = await readBlockGraph(session.qmp, session.schema);
		const found = disks.find(({name}) => name === disk);
		if (!found?.medium) throw new Error(`there is no ${disk}`);
		return {...found, medium: found.medium};
	} finally {
		await session.qmp.close();
	}
}

export async function chainOf(written: WrittenVm, disk: string): Promise<DiskWithMedium['medium']['chain']> {
	return (await diskOf(written, disk)).medium.chain;
}

/** Writes all the time, to all disks, until what is given has ended; and passes on how that did. */
export async function whileWriting<Value>(written: WrittenVm, work: Promise<Value>): Promise<Value> {
	const state = {isOver: false};
	const ended = work.finally(() => {
		state.isOver = true;
	});
	ended.catch(() => undefined);
	while (!state.isOver) for (const {name} of written.disks) await written.writeAround(name, 2);
	return ended;
}

/** Once QEMU has ended: what an image, with all that it lies on, holds is what was written. */
export function expectContent(written: WrittenVm, disk: string, image: string): void {
	const raw = path.join(temporaryFolder(), 'content.raw');
	qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
	expect(fs.readFileSync(raw).equals(written.contents.get(disk)!)).toBe(true);
}
