import fs from 'node:fs';
import path from 'node:path';
import {type BareVm, MIB, startVm} from '../jobs/bare-vm.ts';
import {temporaryFolder} from '../repository/fixture.ts';

const WRITTEN_MIB = 384;
const AT = 0x7c00;
const GDT = 56;

/**
 * A boot sector: goes into protected mode, and adds one to a word of every page of its memory, again and again.
 *
 *     cli; ax, ds = 0; lgdt [gdtr]; cr0 |= 1; jmp 8:pm
 *     pm: ds = 0x10
 *     again: edi = 1 MiB; next: [edi] += 1; edi += 4096; if edi < end: next; jmp again
 */
function program(): Buffer {
	const code = Buffer.from(
		'fa31c08ed80f01160000' +
			'0f20c00c010f22c0' +
			'ea00000800' +
			'66b810008ed8' +
			'bf00001000' +
			'830701' +
			'81c700100000' +
			'81ff00000000' +
			'72efebe8000000' +
			'0000000000000000' +
			'ffff0000009acf00' +
			'ffff00000092cf00' +
			'170000000000',
		'hex',
	);
	code.writeUInt16LE(AT + GDT + 24, 8);
	code.writeUInt16LE(AT + 23, 19);
	code.writeUInt32LE((1 + WRITTEN_MIB) * MIB, 45);
	code.writeUInt32LE(AT + GDT, GDT + 26);
	return code;
}

/** A VM whose guest writes to its memory much faster than that can be saved. It runs. */
export async function startWritingVm(folder = temporaryFolder()): Promise<BareVm> {
	const content = Buffer.alloc(MIB);
	program().copy(content);
	content.set([0x55, 0xaa], 510);
	fs.writeFileSync(path.join(folder, 'vda.raw'), content);
	const vm = await startVm([{name: 'vda', sizeBytes: MIB}], {folder, args: ['-m', String(WRITTEN_MIB + 16)]});
	await vm.qmp.execute('cont');
	return vm;
}
