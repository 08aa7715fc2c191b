import {mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {runQuiesce} from '../cli/run-quiesce.ts';
import {outcome, output} from '../guest/command.ts';
import {executeAny, openQmp, qemuIo} from '../jobs/bare-vm.ts';
import {startQemu} from '../support/real-qemu.ts';
import {codeBlocks} from './pages.ts';

const MIB = 1024 * 1024;
/** No whole number of clusters. */
const ODD_BYTES = 5 * MIB + 512;

/** A repository with two points of a VM, of which the second lies on the first, with a qcow2 and a raw disk, and what each held. */
async function takePoint(): Promise<{folder: string; repository: string; id: string}> {
	const folder = await mkdtemp(join(tmpdir(), 'quiesce-by-hand-'));
	onTestFinished(() => rm(folder, {recursive: true}));
	const repository = join(folder, 'repository');
	await mkdir(repository);
	await output('qemu-img', ['create', '-q', '-f', 'qcow2', join(folder, 'a.qcow2'), '16M']);
	const writes = ['-c', 'write -P 7 1M 3M', '-c', 'write -P 8 16252928 512'];
	await output('qemu-io', ['-f', 'qcow2', ...writes, join(folder, 'a.qcow2')]);
	await output('qemu-img', ['create', '-q', '-f', 'raw', join(folder, 'b.raw'), String(ODD_BYTES)]);
	await output('qemu-io', ['-f', 'raw', '-c', `write -P 9 ${ODD_BYTES - 512} 512`, join(folder, 'b.raw')]);
	const disk = (id: string, file: string, format: string): string[] => [
		...['-blockdev', JSON.stringify({'driver': 'file', 'node-name': `file-${id}`, 'filename': join(folder, file)})],
		...['-blockdev', JSON.stringify({'driver': format, 'node-name': `disk-${id}`, 'file': `file-${id}`})],
		...['-device', `virtio-blk-pci,id=${id},drive=disk-${id}`],
	];
	const qemu = await startQemu(
		...['-M', 'q35', '-S', '-name', 'by hand'],
		...disk('vda', 'a.qcow2', 'qcow2'),
		...disk('vdb', 'b.raw', 'raw'),
	);
	const args = ['backup', '--qmp', qemu.qmpPath, '-r', repository, '--quiesce', 'never'];
	expect(await runQuiesce(args)).toMatchObject({code: 0});
	const qmp = await openQmp(qemu.secondQmpPath);
	await qemuIo(qmp, '/machine/peripheral/vda/virtio-backend', 'write -P 5 2M 1M');
	await qemuIo(qmp, '/machine/peripheral/vdb/virtio-backend', 'write -P 6 0 64k');
	expect(await runQuiesce(args)).toMatchObject({code: 0});
	await executeAny(qmp, 'quit');
	await qemu.ended;
	const [, id = ''] = (await readdir(join(repository, 'vms/by%20hand'))).sort();
	return {folder, repository, id};
}

/** The blocks as they stand on the page, but for the places and names that a reader has to fill in too. */
async function runPage(places: Readonly<Record<string, string>>, folder: string) {
	const script = codeBlocks('docs/recover-by-hand.md', 'sh')
		.join('\n')
		.replaceAll(/^(?<name>[A-Z]+)=.*$/gm, (line, name: string) => {
			const place = places[name];
			return place === undefined ? line : `${name}=${place}`;
		});
	await writeFile(join(folder, 'page.sh'), script);
	return outcome('sh', ['-eu', join(folder, 'page.sh')], folder);
}

test('what the page says to type brings back the very disks that restore does', async () => {
	const {folder, repository, id} = await takePoint();
	const result = join(folder, 'result');
	const device = join(folder, 'device');
	await writeFile(device, '');
	await truncate(device, 20 * MIB);
	const places = {REPOSITORY: repository, POINT: `$REPOSITORY/vms/by%20hand/${id}`, RESULT: result, DEVICE: device};

	const {code, stdout, stderr} = await runPage(places, folder);
	expect(stderr).toBe('');
	expect(code).toBe(0);
	expect(stdout).toMatch(/^vda\.qcow2: OK$/m);
	expect(stdout.match(/^Images are identical\.$/gm)).toHaveLength(2);
	expect(stdout).not.toContain('strange');
	expect(stdout.match(/^\/.*\.qcow2$/gm)).toHaveLength(4);

	const restored = join(folder, 'restored');
	const args = ['restore', 'by hand', '--to', restored, '--format', 'raw', '-r', repository];
	expect(await runQuiesce(args)).toMatchObject({code: 0});
	for (const name of ['vda.raw', 'vdb.raw']) {
		const [byHand, byUs] = await Promise.all([readFile(join(result, name)), readFile(join(restored, name))]);
		expect(Buffer.compare(byHand, byUs), name).toBe(0);
	}
	await output('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', join(folder, 'a.qcow2'), join(result, 'vda.raw')]);
	await output('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', join(folder, 'b.raw'), join(result, 'vdb.raw')]);

	const onDevice = (await readFile(device)).subarray(0, 16 * MIB);
	expect(Buffer.compare(onDevice, await readFile(join(result, 'vda.raw')))).toBe(0);
	const overlay = join(result, 'vda-overlay.qcow2');
	await output('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', overlay, join(result, 'vda.raw')]);
});

test('the page shows damage, and which disk it is in', async () => {
	const {folder, repository, id} = await takePoint();
	const image = join(repository, 'vms/by%20hand', id, 'vdb.qcow2');
	const bytes = await readFile(image);
	bytes[bytes.length - 1]! ^= 1;
	await writeFile(image, bytes);
	const places = {REPOSITORY: repository, POINT: `$REPOSITORY/vms/by%20hand/${id}`, RESULT: join(folder, 'result')};
	const {code, stdout} = await runPage(places, folder);
	expect(code).toBe(1);
	expect(stdout).toMatch(/^vda\.qcow2: OK$/m);
	expect(stdout).toMatch(/^vdb\.qcow2: FAILED$/m);
});
