import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, toArray} from 'rxjs';
import {expect} from 'vitest';
import {prune, type PruneMessage, type PruneOptions} from '../../src/operations/prune.ts';
import {restore} from '../../src/operations/restore.ts';
import {verify} from '../../src/operations/verify.ts';
import {listPoints} from '../../src/repository/points.ts';
import {qemuImg, temporaryFolder} from '../repository/fixture.ts';
import type {PointChain} from '../repository/point-chain.ts';

export function run(options: PruneOptions): Promise<PruneMessage[]> {
	return lastValueFrom(prune(options).pipe(toArray()));
}

export async function visible({repository, vm}: Pick<PointChain, 'repository' | 'vm'>): Promise<string[]> {
	return (await listPoints(repository, vm)).map(({id}) => id);
}

/** That each visible point gives back what it held, by plain `qemu-img` and by our restore, and has no problem. */
export async function expectWhole(chain: PointChain): Promise<void> {
	const {repository, vm, held} = chain;
	const to = temporaryFolder();
	const expectHeld = (file: string, id: string, disk: string, by: string): void => {
		const isSame = fs.readFileSync(file).equals(held.get(id)!.get(disk)!);
		expect(isSame, `${disk} of ${id}, by ${by}`).toBe(true);
		fs.rmSync(file);
	};
	for (const id of await visible(chain)) {
		const [folder, plain, alone] = ['all', 'plain', 'alone'].map(name => path.join(to, `${id}-${name}`)) as [
			string,
			string,
			string,
		];
		const options = {repository: repository.path, vm, point: id, format: 'raw'} as const;
		await lastValueFrom(restore({...options, to: folder}));
		for (const disk of held.get(id)!.keys()) {
			const image = path.join(repository.path, 'vms', vm, id, `${disk}.qcow2`);
			qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, plain);
			expectHeld(plain, id, disk, 'qemu-img');
			expectHeld(path.join(folder, `${disk}.raw`), id, disk, 'a restore of all');
			if (held.get(id)!.size === 1) continue;
			await lastValueFrom(restore({...options, disks: new Map([[disk, alone]])}));
			expectHeld(alone, id, disk, 'a restore of one');
		}
	}
	expect(await problemsIn(repository.path)).toEqual([]);
}

export async function problemsIn(repository: string): Promise<string[]> {
	const messages = await lastValueFrom(verify({repository, depth: 'content'}).pipe(toArray()));
	return messages.flatMap(message =>
		message.kind === 'verified'
			? message.problems.map(({file, problem}) => `${message.point}/${file}: ${problem}`)
			: [],
	);
}

/** What is in the VM's folder that is no visible point's: hidden files and folders, notes, expired points. */
export function leftovers({repository, vm}: Pick<PointChain, 'repository' | 'vm'>): string[] {
	const folder = path.join(repository.path, 'vms', vm);
	if (!fs.existsSync(folder)) return [];
	const found = fs.readdirSync(folder, {recursive: true, encoding: 'utf8'});
	return found.filter(name => /(^|\/)\.|expired\.json$|\.merging$/.test(name));
}
