import {execFile} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {promisify} from 'node:util';
import {expect} from 'vitest';
import type {ExposedDisk, ExposeMessage, ExposeRequest} from '../../../src/operations/expose/expose-messages.ts';
import {expose} from '../../../src/operations/expose/expose.ts';
import {inside} from '../../jobs/bare-vm.ts';
import {expectNothingLeftOutside} from '../../jobs/backups.ts';
import {collect} from '../../jobs/collect.ts';
import {executeAny} from '../../jobs/bare-vm.ts';
import {temporaryFolder} from '../../repository/fixture.ts';
import type {WrittenVm} from '../written-vm.ts';
import {quietRequest} from '../../jobs/quiet-request.ts';

const MINUTE_MS = 60_000;

export function requestFor({vm}: WrittenVm, rest: Partial<ExposeRequest> = {}): ExposeRequest {
	return {
		...quietRequest(vm),
		deadlineMs: MINUTE_MS,
		commandOutput: 'stderr',
		...rest,
	};
}

/** Exposes until `use` has ended, which is given the exports. Writes between the cut and that. */
export async function exposeWritten(
	written: WrittenVm,
	rest: Partial<ExposeRequest>,
	use: (exports: readonly ExposedDisk[]) => Promise<void>,
): Promise<ExposeMessage[]> {
	const ending = new AbortController();
	return collect(expose(requestFor(written, {signal: ending.signal, ...rest})), async message => {
		if (message.kind === 'cut') for (const {name} of written.disks) await written.writeAround(name, 8);
		if (message.kind !== 'exposed') return;
		try {
			await use(message.exports);
		} finally {
			ending.abort();
		}
	});
}

export function copyOf(contents: ReadonlyMap<string, Buffer>): ReadonlyMap<string, Buffer> {
	return new Map([...contents].map(([disk, content]) => [disk, Buffer.from(content)]));
}

/** By `nbdcopy`, while writes go on. */
export async function expectCopied(
	written: WrittenVm,
	exports: readonly ExposedDisk[],
	held: ReadonlyMap<string, Buffer>,
): Promise<void> {
	for (const {disk, uri} of exports) {
		const file = path.join(temporaryFolder(), 'copy.raw');
		const copying = promisify(execFile)('nbdcopy', [uri, file]);
		await written.writeAround(disk, 8);
		await copying;
		const found = fs.readFileSync(file);
		expect({disk, bytes: found.length, same: found.equals(held.get(disk)!)}).toEqual({
			...{disk, bytes: held.get(disk)!.length, same: true},
		});
	}
}

/** No node, export, job or NBD server of ours in QEMU, and nothing on this host. */
export async function expectNothingLeft({vm}: WrittenVm): Promise<void> {
	const {jobs, nodes} = await inside(vm.qmp);
	expect([...jobs, ...nodes].filter(name => name.startsWith('qsc-'))).toEqual([]);
	expect(await vm.qmp.execute('query-block-exports')).toEqual([]);
	await expect(executeAny(vm.qmp, 'nbd-server-stop')).rejects.toThrow(/NBD server not running/);
	expectNothingLeftOutside(temporaryFolder());
}
