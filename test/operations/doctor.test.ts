import fs from 'node:fs';
import path from 'node:path';
import {beforeEach, expect, test} from 'vitest';
import {doctor, type DoctorRequest, type Finding} from '../../src/operations/doctor.ts';
import {requestFor, startBackup} from '../jobs/backups.ts';
import {type BareVm, executeAny, inside, MIB, ownRuntimeFolder, startVm} from '../jobs/bare-vm.ts';
import {temporaryFolder, temporaryMount} from '../repository/fixture.ts';
import {FakeAgent} from '../support/fake-agent.ts';

const VDA = {name: 'vda', sizeBytes: 4 * MIB};
const CRAWL = {speedBytesPerSecond: 64 * 1024};

beforeEach(() => {
	ownRuntimeFolder();
});

function examine(vm: BareVm, rest: Partial<DoctorRequest> = {}): Promise<readonly Finding[]> {
	return doctor({sockets: {qmp: {unix: vm.qmpPath}}, signal: new AbortController().signal, ...rest});
}

function of(findings: readonly Finding[], what: Finding['what']): readonly Finding[] {
	return findings.filter(finding => finding.what === what);
}

test('a VM in which all is well gets a good word on each thing, and is left as it is', async () => {
	const vm = await startVm([VDA]);
	const repository = temporaryFolder();
	const before = await inside(vm.qmp);
	const findings = await examine(vm, {repository});
	expect(findings).toEqual([
		{what: 'monitor', state: 'good', text: expect.stringMatching(/^web, QEMU \d+\.\d+\.\d+, prelaunch$/) as string},
		expect.objectContaining({what: 'agent', state: 'poor', text: 'none is known'}),
		{what: 'disks', state: 'good', text: 'vda'},
		{what: 'method', state: 'good', text: 'fleece'},
		{what: 'scratch', state: 'good', text: `in ${path.dirname(vm.file('vda'))}`},
		{what: 'sink', state: 'good', text: expect.stringMatching(/^daemon: qemu-storage-daemon version /) as string},
		{what: 'leftovers', state: 'good', text: 'none'},
		{what: 'repository', state: 'good', text: repository},
	]);
	expect(await inside(vm.qmp)).toEqual(before);
	expect(fs.readdirSync(repository)).toEqual([]);
	expect(fs.readdirSync(path.dirname(vm.file('vda')))).toEqual(['vda.raw']);
});

test('what makes a backup worth less is told, with what to do about it', async () => {
	const remote = [
		...['-blockdev', 'driver=null-co,node-name=remote,size=1048576,read-zeroes=on'],
		...['-device', 'virtio-blk-pci,id=vdb,drive=remote'],
	];
	const vm = await startVm([VDA], {args: remote});
	await executeAny(vm.qmp, 'cont');
	const agent = await FakeAgent.listen(() => undefined, 'script');
	const findings = await examine(vm, {sockets: {qmp: {unix: vm.qmpPath}, agent: agent.address}});
	expect(of(findings, 'agent')).toEqual([
		{
			what: 'agent',
			state: 'poor',
			text: `no answer: no guest agent answers on unix:${agent.address.unix}`,
			hint: 'Without a freeze a point is what a power cut would leave.',
		},
	]);
	expect(of(findings, 'method')).toEqual([
		{
			what: 'method',
			state: 'poor',
			text: expect.stringMatching(/^push, for which the guest can wait; not fleece: vdb lies in no folder/) as string,
		},
	]);
	expect(of(findings, 'scratch')).toEqual([]);
	expect(of(await examine(vm, {method: 'fleece'}), 'method')).toMatchObject([{state: 'bad'}]);
	expect(of(await examine(vm, {method: 'push'}), 'method')).toMatchObject([{state: 'good', text: 'push'}]);
	const scratch = temporaryFolder();
	expect(of(await examine(vm, {scratch}), 'scratch')).toEqual([
		{what: 'scratch', state: 'good', text: `in ${scratch}`},
	]);
});

test('scratch that is missing or full is bad, and one that the worst case does not fit is poor', async () => {
	const vm = await startVm([{name: 'vda', sizeBytes: 16 * MIB, fill: 0xaa}]);
	const missing = path.join(temporaryFolder(), 'missing');
	expect(of(await examine(vm, {scratch: missing}), 'scratch')).toMatchObject([
		{state: 'bad', text: `cannot have scratch in ${missing}: there is no such folder`},
	]);
	const full = temporaryMount(1);
	expect(of(await examine(vm, {scratch: full}), 'scratch')).toMatchObject([
		{state: 'bad', text: `no space is free in ${full}, where scratch is to be`},
	]);
	const small = temporaryMount(20);
	expect(of(await examine(vm, {scratch: small}), 'scratch')).toMatchObject([
		{state: 'poor', text: expect.stringMatching(/^scratch in .* can take up to 16 MiB/) as string},
	]);
});

test('a run at work makes a backup fail, and one that was killed does not', async () => {
	const vm = await startVm([VDA]);
	const repository = temporaryFolder();
	const run = startBackup(requestFor(vm, repository, CRAWL));
	const {plan} = await run.until('planned');
	// It has the lock, and nothing in the VM yet.
	const sockets = {qmp: {unix: vm.secondQmpPath}};
	await vm.qmp.close();
	expect(of(await examine(vm, {sockets}), 'leftovers')).toMatchObject([
		{state: 'bad', text: expect.stringMatching(/^a run is at work with this VM/) as string},
	]);
	await run.until('cut');
	expect(of(await examine(vm, {sockets}), 'leftovers')).toMatchObject([
		{state: 'bad', text: `a run is at work with this VM: ${plan.run}`},
	]);
	await run.until('progress');
	await run.kill();
	expect(of(await examine(vm, {sockets}), 'leftovers')).toEqual([
		{
			what: 'leftovers',
			state: 'poor',
			text: `run ${plan.run} was killed, and left things in the VM`,
			hint: '`quiesce recover` undoes them; so does the next backup.',
		},
	]);
});

test('a VM without disks, and what is no repository, are bad', async () => {
	const vm = await startVm([]);
	const repository = temporaryFolder();
	fs.writeFileSync(path.join(repository, 'theirs'), '');
	const findings = await examine(vm, {repository});
	expect(findings.filter(({state}) => state === 'bad')).toEqual([
		{what: 'disks', state: 'bad', text: 'nothing is left to back up', hint: 'The VM has no disks.'},
		{
			what: 'repository',
			state: 'bad',
			text: `${repository} is not a repository, and not empty`,
			hint: 'Name a repository or an empty folder.',
		},
	]);
	expect(of(findings, 'method')).toEqual([]);
});
