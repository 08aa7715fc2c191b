import {beforeEach, expect, test} from 'vitest';
import {ownRuntimeFolder} from '../jobs/bare-vm.ts';
import {expectNothingLeft, expectNothingLeftOutside} from '../jobs/backups.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {expectHeld, storedAs, type Taken, WrittenVm} from './written-vm.ts';

beforeEach(() => {
	ownRuntimeFolder();
});

test('increments continue when the VM goes off and on', async () => {
	const written = await new WrittenVm().start();
	const repository = temporaryFolder();
	const points: Taken[] = [await written.back(repository)];
	for (let nth = 0; nth < 2; nth++) {
		for (const {name} of written.disks) await written.writeAround(name);
		await written.quit();
		points.push(await written.backOff(repository), await written.backOff(repository));
		await written.start();
		for (const {name} of written.disks) await written.writeAround(name);
		points.push(await written.back(repository));
	}
	for (const point of points) expectHeld(point);
	for (const disk of ['vda', 'vdb']) {
		expect(points.slice(1).map(point => storedAs(point, disk))).toEqual(
			points.slice(0, -1).map(({finished}) => ({kind: 'incremental', reason: null, parent: finished.manifest.id})),
		);
	}
	const off = points[1]!.finished.manifest;
	expect(off).toMatchObject({
		consistency: 'offline',
		method: 'push',
		freeze: null,
		standstill: null,
		uuid: written.uuid,
	});
	// Nothing had changed since.
	expect(points[2]!.finished.manifest.disks.map(({addedBytes}) => addedBytes < 400_000)).toEqual([true, true]);
	await expectNothingLeft(written.vm, repository);
	expectNothingLeftOutside(repository);
	expect(await written.bitmaps('vda')).toHaveLength(2);
});
