import {afterAll, beforeAll, expect, test} from 'vitest';
import {type Guest, startGuest} from '../guest/guest.ts';
import {runQuiesce} from './run-quiesce.ts';
import {expectNothingLeft, type Folder, guestName, newRepository, socketsOf, temporaryFolder} from './scene.ts';

let folder: Folder;
let guest: Guest;
let repository: string;

beforeAll(async () => {
	folder = await temporaryFolder();
	repository = await newRepository(folder);
	guest = await startGuest({name: guestName('patient'), bytes: 24 << 20});
});

afterAll(async () => {
	await guest.kill();
	await folder[Symbol.asyncDispose]();
});

test('doctor says of a good VM that all is well, a line each, and changes nothing', async () => {
	const {code, stdout, stderr} = await runQuiesce(['doctor', guest.name, '-r', repository]);
	expect({code, stderr}).toEqual({code: 0, stderr: ''});
	expect(stdout.trimEnd().split('\n')).toEqual([
		expect.stringMatching(new RegExp(`^ok {4}monitor {5}${guest.name}, QEMU [\\d.]+, running$`)),
		expect.stringMatching(/^ok {4}agent {7}[\d.]+, can freeze the guest$/),
		'ok    disks       vda, vdb',
		'ok    method      fleece',
		`ok    scratch     in ${guest.dir}`,
		expect.stringMatching(/^ok {4}sink {8}daemon: qemu-storage-daemon version /),
		'ok    leftovers   none',
		`ok    repository  ${repository}`,
	]);
	for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(100);
	await expectNothingLeft(guest, repository);
});

test('doctor prints one JSON document, and without an agent says what that costs', async () => {
	const {code, stdout, stderr} = await runQuiesce(['doctor', '--qmp', guest.qmpPath, '--json']);
	expect({code, stderr}).toEqual({code: 0, stderr: ''});
	const findings = JSON.parse(stdout) as {what: string; state: string}[];
	expect(findings.map(({what, state}) => `${what} ${state}`)).toEqual([
		...['monitor good', 'agent poor', 'disks good', 'method good', 'scratch good', 'sink good', 'leftovers good'],
	]);
	expect(findings[1]).toEqual({
		what: 'agent',
		state: 'poor',
		text: 'none is known',
		hint: 'Name its socket with --agent. Without a freeze a point is what a power cut would leave.',
	});
});

test('doctor ends with 1 where a backup would fail, and puts what to do under it', async () => {
	const missing = folder.new('missing');
	const {code, stdout} = await runQuiesce(['doctor', ...socketsOf(guest), '-r', missing, '--scratch', missing]);
	expect(code).toBe(1);
	const lines = stdout.trimEnd().split('\n');
	expect(lines).toContain(`BAD   scratch     cannot have scratch in ${missing}: there is no such folder`);
	const at = lines.indexOf(`BAD   repository  there is no repository ${missing}: the folder does not exist`);
	expect(lines[at + 1]).toMatch(/^ {18}Is its file system mounted\?/);
});

test('doctor ends with the code of what keeps it from the VM', async () => {
	const nowhere = await runQuiesce(['doctor', '--qmp', folder.new('nowhere')]);
	expect(nowhere).toMatchObject({code: 20, stdout: ''});
	expect(nowhere.stderr).toMatch(/^quiesce: monitor unix:.* does not exist\n {2}Try: /);
	expect(await runQuiesce(['doctor'])).toMatchObject({code: 2, stdout: ''});
});
