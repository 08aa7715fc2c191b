import {spawn} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {readBlockGraph} from '../../src/block/read-graph.ts';
import {type HostProcess, sharesMounts} from '../../src/host/processes.ts';
import {chooseMethod, type ChosenMethod, type MethodWishes} from '../../src/operations/choose-method.ts';
import {selectDisks} from '../../src/operations/select-disks.ts';
import {QmpSchema} from '../../src/qmp/introspection.ts';
import {type BareVm, eventually, MIB, startVm} from '../jobs/bare-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';

const VDA = {name: 'vda', sizeBytes: MIB};

async function choose({qmp}: BareVm, wishes: MethodWishes = {}, qemu?: HostProcess): Promise<ChosenMethod> {
	const schema = await QmpSchema.read(qmp);
	const {disks} = selectDisks(await readBlockGraph(qmp, schema), {});
	return chooseMethod(wishes, {power: 'on', qmp, schema}, disks, qemu);
}

function processOf(pid: number, cwd: string): HostProcess {
	return {pid, cwd, argv: [], exe: undefined, uid: 0, startTicks: 0};
}

/** That the default is to push for that reason, and that nothing but fleecing is refused. */
async function expectPush(vm: BareVm, because: string | RegExp, qemu?: HostProcess): Promise<void> {
	expect(await choose(vm, {}, qemu)).toMatchObject({
		method: 'push',
		because: typeof because === 'string' ? because : (expect.stringMatching(because) as string),
	});
	await expect(choose(vm, {method: 'fleece'}, qemu)).rejects.toMatchObject({
		code: 'REFUSED',
		message: expect.stringMatching(/^this VM cannot be backed up by fleece: /) as string,
		hint: 'Leave out --method, or use --method push.',
	});
	expect(await choose(vm, {method: 'push'}, qemu)).toEqual({method: 'push', scratchFolders: new Map()});
}

const NULL_DISK = [
	...['-blockdev', 'driver=null-co,node-name=remote,size=1048576,read-zeroes=on'],
	...['-device', 'virtio-blk-pci,id=vdb,drive=remote'],
];

test('a VM is fleeced by default, with scratch beside each image', async () => {
	const vm = await startVm([VDA, {...VDA, name: 'vdb'}]);
	const folder = path.dirname(vm.file('vda'));
	expect(await choose(vm)).toEqual({
		method: 'fleece',
		scratchFolders: new Map([
			['vda', folder],
			['vdb', folder],
		]),
	});
});

test('a disk that is no file of this host is pushed, or fleeced with scratch in a folder that is named', async () => {
	const vm = await startVm([VDA], {args: NULL_DISK});
	await expectPush(vm, /^vdb lies in no folder of this host \(.*\); name one for scratch with --scratch$/);
	const scratch = temporaryFolder();
	expect(await choose(vm, {scratch})).toEqual({
		method: 'fleece',
		scratchFolders: new Map([
			['vda', scratch],
			['vdb', scratch],
		]),
	});
});

test('a disk that the guest cannot write needs no scratch', async () => {
	const readOnly = [
		...['-blockdev', 'driver=null-co,node-name=remote,size=1048576,read-zeroes=on,read-only=on'],
		...['-device', 'virtio-blk-pci,id=vdb,drive=remote'],
	];
	const vm = await startVm([VDA], {args: readOnly});
	const {method, scratchFolders} = await choose(vm);
	expect(method).toBe('fleece');
	expect([...scratchFolders.keys()]).toEqual(['vda']);
});

test('two devices on one node are pushed', async () => {
	const second = ['-device', 'virtio-blk-pci,id=vdb,drive=vda-node,share-rw=on'];
	const vm = await startVm([{...VDA, shared: true}], {args: second});
	await expectPush(vm, 'vdb and another device share the node vda-node');
});

test('a QEMU in another mount namespace is pushed', async () => {
	const vm = await startVm([VDA]);
	const child = spawn('unshare', ['--mount', 'sleep', '60'], {stdio: 'ignore'});
	onTestFinished(() => {
		child.kill('SIGKILL');
	});
	await eventually(async () => !(await sharesMounts(child.pid!)));
	await expectPush(vm, /^its QEMU has a mount namespace of its own/, processOf(child.pid!, vm.dir));
});

test('an image with a relative name is found where QEMU is, unless QEMU has gone elsewhere since', async () => {
	// QEMU's own folder is a sibling of this one.
	const folder = temporaryFolder();
	fs.writeFileSync(path.join(folder, 'vda.raw'), Buffer.alloc(MIB));
	const name = `../${path.basename(folder)}/vda.raw`;
	const args = ['-drive', `if=none,id=drive,format=raw,file=${name}`, '-device', 'virtio-blk-pci,id=vda,drive=drive'];
	const vm = await startVm([], {args});
	expect((await choose(vm, {}, processOf(process.pid, vm.dir))).scratchFolders).toEqual(new Map([['vda', folder]]));
	const because = `vda lies in no folder of this host (${name}); name one for scratch with --scratch`;
	await expectPush(vm, because, processOf(process.pid, '/nowhere/at/all'));
	await expectPush(vm, because);
});
