import fs from 'node:fs';
import path from 'node:path';
import {type BareDisk, type BareVm, type BareVmOptions, hmp, MIB, startVm} from '../jobs/bare-vm.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';

const SECTOR = 512;
const SLOTS = 4096;
const COUNTER = 0x8000;

/**
 * A boot sector: counts in memory, and writes each number to a sector of the first disk and then of the second.
 *
 *     cli; ax, ds, es, ss = 0; sp = 0x7c00; sti
 *     again: [0x8000] += 1; lba = 1 + ([0x8000] & 0xfff); write(0x80); write(0x81); jmp again
 *     write: si = packet; ax = 0x4300; int 0x13; ret
 *     packet: one sector from 0:0x8000 to lba
 */
const PROGRAM = Buffer.from(
	'fa31c08ed88ec08ed0bc007cfb66ff06008066a100806625ff0f0000664066a33f7cb280e80700b281e80200ebdf' +
		'be377cb80043cd13c310000100008000000000000000000000',
	'hex',
);

export const COUNTING_DISKS: readonly BareDisk[] = [
	{name: 'vda', sizeBytes: 4 * MIB, format: 'qcow2'},
	{name: 'vdb', sizeBytes: 4 * MIB, format: 'qcow2'},
];

/** A VM whose guest counts in memory and on both its disks: see {@link agreement}. It runs. */
export async function startCountingVm(options: BareVmOptions = {}, disks = COUNTING_DISKS): Promise<BareVm> {
	const folder = options.folder ?? temporaryFolder();
	for (const [index, {name, sizeBytes, format = 'raw'}] of disks.entries()) {
		const image = path.join(folder, `${name}.${format}`);
		if (fs.existsSync(image)) continue;
		const content = Buffer.alloc(sizeBytes);
		if (index === 0) {
			PROGRAM.copy(content);
			content.set([0x55, 0xaa], SECTOR - 2);
		}
		const raw = format === 'raw' ? image : `${image}.raw`;
		fs.writeFileSync(raw, content);
		if (format === 'raw') continue;
		qemuImg('convert', '-f', 'raw', '-O', format, raw, image);
		fs.rmSync(raw);
	}
	const vm = await startVm(disks, {...options, folder});
	if (!options.args?.includes('-incoming')) await vm.qmp.execute('cont');
	return vm;
}

/** What the guest has counted to, in its memory. */
export async function countIn({qmp}: Pick<BareVm, 'qmp'>): Promise<number> {
	const said = await hmp(qmp, `xp /1wx ${COUNTER}`);
	return Number(/: (?<count>0x[0-9a-f]+)/.exec(said)?.groups?.['count']);
}

/** Resolves once the guest has counted so far. */
export async function countReaches(vm: Pick<BareVm, 'qmp'>, count: number): Promise<void> {
	while ((await countIn(vm)) < count) await new Promise(resolve => setTimeout(resolve, 5));
}

/**
 * Nothing if the two disks are as a guest left them that had counted to `count`: the last number may lack on the second
 * disk, or on both; every one before is there. Else what is wrong, in words.
 */
export function disagreement(count: number, images: readonly [string, string]): string[] {
	const wrong: string[] = [];
	const [first, second] = images.map(contentOf) as [Buffer, Buffer];
	const numberAt = (disk: Buffer, slot: number): number => disk.readUInt32LE((1 + slot) * SECTOR);
	const last = (number: number): boolean => numberAt(first, number % SLOTS) === number;
	for (const [name, disk] of [
		['first', first],
		['second', second],
	] as const) {
		for (let number = Math.max(1, count - SLOTS + 2); number < count; number++) {
			const found = numberAt(disk, number % SLOTS);
			if (found !== number) wrong.push(`${name} disk: ${found} instead of ${number}`);
		}
		const next = numberAt(disk, (count + 1) % SLOTS);
		if (next > count) wrong.push(`${name} disk: ${next} already, at ${count}`);
	}
	if (numberAt(second, count % SLOTS) === count && !last(count)) wrong.push(`second disk: ${count} before the first`);
	return wrong.slice(0, 5);
}

function contentOf(image: string): Buffer {
	const raw = path.join(temporaryFolder(), 'content.raw');
	qemuImg('convert', '-U', '-O', 'raw', image, raw);
	return fs.readFileSync(raw);
}
