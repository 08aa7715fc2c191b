import path from 'node:path';
import {lastValueFrom, type Observable, tap, toArray} from 'rxjs';
import {expect, onTestFinished, test} from 'vitest';
import {QuiesceError} from '../../../src/errors.ts';
import {parseTransaction} from '../../../src/operations/transaction/plan.ts';
import {transact, type TransactMessage, type TransactRequest} from '../../../src/operations/transaction/transact.ts';
import {MIB} from '../../jobs/bare-vm.ts';
import {qemuImg, temporaryFolder} from '../../repository/fixture.ts';
import {WritingVm} from '../writing-vm.ts';
import {differences, WrittenVm} from '../written-vm.ts';

let vms = 0;

/** Of two disks that are written to all the time. */
async function writingVm(): Promise<WritingVm> {
	return new WritingVm(new WrittenVm(undefined, undefined, `transacted-${process.pid}-${++vms}`)).start();
}

function run(vm: WritingVm, text: string, rest: Partial<TransactRequest> = {}): Observable<TransactMessage> {
	return transact({
		...{sockets: vm.sockets, plan: parseTransaction(text, 'two.yaml'), quiesce: 'never', freezeTimeoutMs: 20_000},
		...{signal: new AbortController().signal, tell: text => expect.unreachable(text)},
		...rest,
	});
}

function all(messages$: Observable<TransactMessage>): Promise<TransactMessage[]> {
	return lastValueFrom(messages$.pipe(toArray()));
}

/** Images of the disks' sizes, and a transaction that copies the disks to them. */
function twoCopies(vm: WritingVm): {readonly images: ReadonlyMap<string, string>; readonly text: string} {
	const folder = temporaryFolder();
	const images = new Map(
		vm.written.disks.map(({name, sizeBytes}) => {
			const image = path.join(folder, `${name}.qcow2`);
			qemuImg('create', '-f', 'qcow2', image, String(sizeBytes));
			return [name, image];
		}),
	);
	const each = (line: (disk: string, image: string) => string): string =>
		[...images].map(([disk, image]) => line(disk, image)).join('\n');
	const removed = each(disk => `  - blockdev-del: {node-name: copy-${disk}}`);
	const text = `
prepare:
${each((disk, image) => `  - blockdev-add: {driver: qcow2, node-name: copy-${disk}, file: {driver: file, filename: ${image}}}`)}
actions:
${each(disk => `  - {type: blockdev-backup, data: {device: "disk:${disk}", target: copy-${disk}, sync: full, job-id: copy-${disk}}}`)}
after:
${removed}
cleanup:
${removed}
`;
	return {images, text};
}

async function expectNothingLeft(vm: WritingVm): Promise<void> {
	const {qmp} = vm.written.vm;
	expect(await qmp.execute('query-jobs')).toEqual([]);
	const nodes = await qmp.execute('query-named-block-nodes', {flat: true});
	expect(nodes.filter(node => node['node-name']?.startsWith('copy-') ?? false)).toEqual([]);
}

test('two disks are copied as they were at one instant, while the guest writes', async () => {
	const vm = await writingVm();
	const {images, text} = twoCopies(vm);
	const messages = await all(run(vm, text, {quiesce: 'require'}));
	expect(messages.map(({kind}) => kind).filter(kind => kind !== 'progress')).toEqual(['planned', 'cut', 'finished']);
	expect(messages.at(-1)).toMatchObject({
		...{kind: 'finished', vm: vm.written.name, consistency: 'quiesced'},
		jobs: [
			{id: 'copy-vda', bytes: 8 * MIB},
			{id: 'copy-vdb', bytes: 4 * MIB + 64 * 1024},
		],
	});
	expect(vm.held.size).toBe(2);
	for (const [disk, image] of images) expect(differences(image, vm.held.get(disk)!)).toEqual([]);
	await expectNothingLeft(vm);
});

test('where one of the jobs fails the other is cancelled, and what the file has for that is done', async () => {
	const vm = await writingVm();
	const {text} = twoCopies(vm);
	// A target that fails, beneath one of the copies.
	const failing = text.replace(
		/file: \{driver: file, filename: (\S+vdb\S+)\}\}/,
		'file: {driver: blkdebug, inject-error: [{event: pwritev, errno: 5}], image: {driver: file, filename: $1}}}',
	);
	expect(failing).not.toBe(text);
	await expect(all(run(vm, failing))).rejects.toMatchObject({
		code: 'JOB_FAILED',
		message: expect.stringMatching(/^vdb: the job failed while writing the copy/) as string,
	});
	await expectNothingLeft(vm);
});

test('a transaction that QEMU refuses is told of, and cleaned up after', async () => {
	const vm = await writingVm();
	const {text} = twoCopies(vm);
	await expect(all(run(vm, text.replaceAll('target: copy-vdb', 'target: nowhere')))).rejects.toMatchObject({
		code: 'REFUSED',
	});
	await expectNothingLeft(vm);
	const told: string[] = [];
	const unnamed = run(vm, text.replace('node-name: copy-vdb', 'node-name: "9 lives"'), {
		tell: words => told.push(words),
	});
	await expect(all(unnamed)).rejects.toThrow('QEMU refused blockdev-add');
	// There was no second node to be removed.
	expect(told).toEqual([expect.stringContaining('cleanup: QEMU refused blockdev-del')]);
	await expectNothingLeft(vm);
});

test('a signal cancels the jobs, and cleans up', async () => {
	const vm = await writingVm();
	const {text} = twoCopies(vm);
	const abort = new AbortController();
	const slow = text.replaceAll('sync: full', 'sync: full, speed: 65536');
	const cancelled$ = run(vm, slow, {signal: abort.signal}).pipe(
		tap(({kind}) => {
			if (kind === 'cut') abort.abort(new Error('enough'));
		}),
	);
	await expect(all(cancelled$)).rejects.toThrow('enough');
	await expectNothingLeft(vm);
});

test("another's job of the same name is neither taken for ours nor cancelled", async () => {
	const vm = await writingVm();
	const {text} = twoCopies(vm);
	const {written} = vm;
	await written.execute('blockdev-add', {
		'driver': 'null-co',
		'node-name': 'sink',
		'size': 8 * MIB,
		'read-zeroes': true,
	});
	await written.execute('blockdev-backup', {
		...{'job-id': 'copy-vda', 'device': 'vda-node', 'target': 'sink', 'sync': 'full', 'speed': 65536},
	});
	onTestFinished(() => written.kill());
	const told: string[] = [];
	await expect(all(run(vm, text, {tell: words => told.push(words)}))).rejects.toThrow(
		'there is a job copy-vda in this VM already',
	);
	expect((await written.vm.qmp.execute('query-jobs')).map(({id, status}) => ({id, status}))).toEqual([
		{id: 'copy-vda', status: 'running'},
	]);
	expect(told).toEqual([]);
});

test('actions without jobs, grouped, and with names of our own for jobs that have none', async () => {
	const vm = await writingVm();
	const {text} = twoCopies(vm);
	const bitmaps = `{"actions": [
		{"type": "block-dirty-bitmap-add", "data": {"node": "disk:vda", "name": "mark"}},
		{"type": "block-dirty-bitmap-add", "data": {"node": "disk:vdb", "name": "mark"}}
	]}`;
	expect((await all(run(vm, bitmaps))).at(-1)).toMatchObject({kind: 'finished', jobs: []});
	for (const {name} of vm.written.disks) expect(await vm.written.bitmaps(name)).toMatchObject([{name: 'mark'}]);
	const grouped = `${text.replaceAll(/, job-id: copy-vd./g, '')}properties: {completion-mode: grouped}\n`;
	expect((await all(run(vm, grouped))).at(-1)).toMatchObject({
		jobs: [{id: /^qsc-.*-job$/}, {id: /^qsc-.*-job$/}].map(({id}) => ({id: expect.stringMatching(id) as string})),
	});
	await expectNothingLeft(vm);
});

test('all that is wrong is said with its line, and nothing is sent', async () => {
	const vm = await writingVm();
	const text = `# what is to be done
prepare:
  - blockdev-ad: {driver: qcow2}
actions:
  - type: blockdev-backup
    data:
      device: disk:vdc
      target: a
      sync: fully
      auto-dismiss: true
  - {type: block-dirty-bitmap-add, data: {node: "disk:vda"}}
cleanup:
  - blockdev-del: {node: a}
`;
	await expect(all(run(vm, text))).rejects.toMatchObject({
		code: 'USAGE',
		message: 'nothing was sent:',
		problems: [
			'two.yaml:3: prepare[0].blockdev-ad: this QEMU has no command blockdev-ad: did you mean blockdev-add?',
			'two.yaml:7: actions[0].data.device: this VM has no disk vdc, but vda, vdb',
			"two.yaml:9: actions[0].data.sync: expected one of top, full, none, incremental, bitmap, not 'fully'",
			'two.yaml:10: actions[0].data.auto-dismiss: the jobs are finalized together, and dismissed once it is known how they ended: leave it out',
			'two.yaml:11: actions[1].data: name is missing',
			'two.yaml:13: cleanup[0].blockdev-del: node-name is missing',
			'two.yaml:13: cleanup[0].blockdev-del.node: there is no node here, but node-name',
		],
	});
	const [planned, ...more] = await all(run(vm, twoCopies(vm).text, {dryRun: true, quiesce: 'require'}));
	expect(more).toEqual([]);
	expect(planned).toMatchObject({
		kind: 'planned',
		transaction: {actions: [{data: {device: 'vda-node'}}, {data: {device: 'vdb-node'}}]},
	});
	await expectNothingLeft(vm);
});

test.each([
	['actions: [', 'two.yaml:1: '],
	['- a', 'two.yaml:1: '],
	['actions: []', 'two.yaml:1: actions: a transaction has at least one action'],
	['actions: [{type: abort, data: {}}]\nacts: 1', 'two.yaml:2: acts: '],
	[
		'actions: [{type: abort, data: {}}]\nafter:\n  - {stop: {}, cont: {}}',
		'two.yaml:3: after[0]: expected one command',
	],
	[
		'a: &a [1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c]',
		'two.yaml: ',
	],
	['actions: 1\nactions: 2', 'two.yaml:2: '],
])('%j is refused with its line', (text, words) => {
	const {message, problems} = failureOf(() => parseTransaction(text, 'two.yaml'));
	expect([message, ...problems].join('\n')).toContain(words);
});

function failureOf(work: () => unknown): QuiesceError {
	try {
		work();
	} catch (error) {
		if (error instanceof QuiesceError) return error;
		throw error;
	}
	throw new Error('it did not fail');
}
