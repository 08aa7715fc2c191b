import fs from 'node:fs';
import path from 'node:path';
import {expect} from 'vitest';
import {createSnapshot} from '../../src/operations/snapshot-create.ts';
import type {SnapshotMessage, SnapshotRequest} from '../../src/operations/snapshot-messages.ts';
import {collect} from '../jobs/collect.ts';
import type {BareVm} from '../jobs/bare-vm.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import {quietRequest} from '../jobs/quiet-request.ts';

export type FinishedSnapshot = Extract<SnapshotMessage, {kind: 'finished'}>;

export function snapshotRequest(vm: BareVm, rest: Partial<SnapshotRequest> = {}): SnapshotRequest {
	return {
		...quietRequest(vm),
		...rest,
	};
}

/** Takes a snapshot. What `onMessage` does is waited for too. */
export function snapshotOf(
	request: SnapshotRequest,
	onMessage: (message: SnapshotMessage) => unknown = () => undefined,
): Promise<SnapshotMessage[]> {
	return collect(createSnapshot(request), onMessage);
}

export function finishedSnapshot(messages: readonly SnapshotMessage[]): FinishedSnapshot {
	const last = messages.at(-1);
	if (last?.kind !== 'finished') throw new Error(`it ended with ${last?.kind ?? 'nothing'}`);
	return last;
}

/** Every byte of a closed image, with all that it lies on. */
export function contentOf(image: string, format = 'qcow2'): Buffer {
	const raw = path.join(temporaryFolder(), 'content.raw');
	qemuImg('convert', '-U', '-f', format, '-O', 'raw', image, raw);
	return fs.readFileSync(raw);
}

/** That each base of a snapshot holds what the disks held at the cut. */
export function expectFrozen({manifest}: FinishedSnapshot, held: ReadonlyMap<string, Buffer>): void {
	for (const {name, base} of manifest.disks) {
		expect(contentOf(base.file, base.format).equals(held.get(name)!), `${name} at ${manifest.name}`).toBe(true);
	}
}

/** Which node each disk lies on. */
export async function topNodes({qmp}: BareVm): Promise<Map<string, string>> {
	const backends = await qmp.execute('query-block');
	return new Map(
		backends.flatMap(({qdev = '', inserted}) => {
			const name = /^\/machine\/peripheral\/(?<id>[^/]+)/.exec(qdev)?.groups?.['id'] ?? qdev;
			return inserted?.['node-name'] === undefined ? [] : [[name, inserted['node-name']] as const];
		}),
	);
}
