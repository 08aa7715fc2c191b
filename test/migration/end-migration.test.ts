import {expect, onTestFinished, test} from 'vitest';
import {endMigration, type MigrationMark} from '../../src/migration/end-migration.ts';
import {receiveMemory} from '../../src/migration/memory-file.ts';
import {readSettings, setCapabilities} from '../../src/migration/settings.ts';
import {reach} from '../../src/migration/status.ts';
import {eventually} from '../jobs/bare-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';
import {startCountingVm} from './counting-vm.ts';

test.each([
	{state: 'pre-switchover', hasSwitched: false, status: 'running'},
	{state: 'completed', hasSwitched: true, status: 'running'},
	// Not ours: the VM may run elsewhere by now.
	{state: 'completed', hasSwitched: false, status: 'postmigrate'},
] as const)('a VM that a dead run left in $state (told to finish: $hasSwitched) is $status afterwards', async scene => {
	const vm = await startCountingVm({args: ['-m', '16']});
	const settings = await readSettings(vm.qmp);
	const mark: MigrationMark = {settings, wasRunning: true, hasSwitched: scene.hasSwitched, canActivate: false};
	const folder = temporaryFolder();
	const receiver = await receiveMemory({folder}, `${folder}/memory.zst`);
	onTestFinished(() => receiver.close());
	await setCapabilities(vm.qmp, {'events': true, 'pause-before-switchover': true});
	await vm.qmp.execute('migrate', {uri: receiver.uri});
	await reach(vm.qmp, 'pre-switchover');
	if (scene.state === 'completed') {
		await vm.qmp.execute('migrate-continue', {state: 'pre-switchover'});
		await reach(vm.qmp, 'completed');
		await eventually(async () => (await vm.qmp.execute('query-status')).status === 'postmigrate');
	}
	await receiver.close();
	await endMigration(vm.qmp, mark, {whose: 'unknown'});
	expect((await vm.qmp.execute('query-status')).status).toBe(scene.status);
	if (scene.status === 'running') expect(await readSettings(vm.qmp)).toEqual(settings);
});
