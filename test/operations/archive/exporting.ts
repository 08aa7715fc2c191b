import fs from 'node:fs';
import path from 'node:path';
import {expect} from 'vitest';
import type {ExportMessage, ExportVmRequest} from '../../../src/operations/archive/export-messages.ts';
import {exportVm} from '../../../src/operations/archive/export-vm.ts';
import {restoreArchive} from '../../../src/operations/archive/restore-archive.ts';
import {collect} from '../../jobs/collect.ts';
import {temporaryFolder} from '../../repository/fixture.ts';
import type {WrittenVm} from '../written-vm.ts';
import {quietRequest} from '../../jobs/quiet-request.ts';

export type Exported = Extract<ExportMessage, {kind: 'finished'}>;

export function requestFor({vm}: WrittenVm, file: string, rest: Partial<ExportVmRequest> = {}): ExportVmRequest {
	return {
		...quietRequest(vm),
		target: {kind: 'file', path: file},
		compression: 'none',
		...rest,
	};
}

/** Exports, and writes while it is copied. Returns what the disks held at the cut. */
export async function exportWritten(
	written: WrittenVm,
	file: string,
	rest: Partial<ExportVmRequest> = {},
): Promise<{readonly exported: Exported; readonly held: ReadonlyMap<string, Buffer>}> {
	const held = new Map([...written.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
	let isCut = false;
	const messages = await collect(exportVm(requestFor(written, file, rest)), async ({kind}) => {
		if (kind !== 'cut' || isCut) return;
		isCut = true;
		for (const {name} of written.disks) await written.writeAround(name, 3);
	});
	const last = messages.at(-1);
	if (last?.kind !== 'finished') throw new Error(`it ended with ${last?.kind ?? 'nothing'}`);
	return {exported: last, held};
}

/** Restored by its own reader, each disk is what it held, to the byte. */
export async function expectArchived(file: string, held: ReadonlyMap<string, Buffer>): Promise<void> {
	const to = path.join(temporaryFolder(), 'restored');
	const signal = new AbortController().signal;
	const messages = await collect(restoreArchive({source: {kind: 'file', path: file}, to, signal}));
	const last = messages.at(-1);
	expect(last).toMatchObject({kind: 'finished'});
	for (const [disk, content] of held) {
		const found = fs.readFileSync(path.join(to, `${disk}.raw`));
		expect({disk, bytes: found.length, same: found.equals(content)}).toEqual({
			...{disk, bytes: content.length, same: true},
		});
	}
	fs.rmSync(to, {recursive: true});
}
