import fs from 'node:fs';
import path from 'node:path';
import {lastValueFrom, tap, toArray} from 'rxjs';
import {expect, test} from 'vitest';
import {list} from '../../src/operations/list.ts';
import {verify, type VerifyOptions} from '../../src/operations/verify.ts';
import {createPartialPoint} from '../../src/repository/partial-point.ts';
import {corrupt, eight, emptyRepository, makePoint} from '../repository/fixture.ts';

async function repositoryWithDamage() {
	const repository = await emptyRepository();
	const {point: sound} = await makePoint(repository, [65_536]);
	const {point: damaged} = await makePoint(repository, [1024 * 1024, 65_536], {now: new Date('2026-11-22T08:00:00Z')});
	const {point: other} = await makePoint(repository, [65_536], {vm: 'db'});
	corrupt(path.join(damaged.folder, 'vda.qcow2'), 200_000);
	fs.writeFileSync(path.join(other.folder, 'point.json'), '');
	return {repository, sound, damaged, other};
}

const run = (options: VerifyOptions) => lastValueFrom(verify(options).pipe(toArray()));

test('checks every point, and counts those with problems', async () => {
	const {repository, sound, damaged, other} = await repositoryWithDamage();
	const messages = await run({repository: repository.path});
	expect(messages[0]).toEqual({kind: 'started', points: 3});
	expect(messages.at(-1)).toMatchObject({kind: 'finished', points: 3, damaged: 2});
	const verified = messages.filter(message => message.kind === 'verified');
	expect(verified).toMatchObject([
		{vm: 'db', point: other.id, problems: [{file: 'point.json'}]},
		{vm: 'web', point: sound.id, problems: []},
		{vm: 'web', point: damaged.id, problems: [{file: 'vda.qcow2', problem: 'its checksum is wrong'}]},
	]);
	const progress = messages.filter(message => message.kind === 'progress').at(-1);
	expect(progress?.bytesRead).toBe(progress?.bytesTotal);
});

test('checks one VM or one point', async () => {
	const {repository, damaged} = await repositoryWithDamage();
	const last = async (vm: string, point?: string) => (await run({repository: repository.path, vm, point})).at(-1);
	await expect(last('web')).resolves.toMatchObject({points: 2, damaged: 1});
	await expect(last('web', damaged.id)).resolves.toMatchObject({points: 1, damaged: 1});
	await expect(last('web', '2026-11-21')).resolves.toMatchObject({points: 1, damaged: 0});
	await expect(last('db', '2026-11-21T08-00-00Z')).resolves.toMatchObject({points: 1, damaged: 1});
	await expect(last('wbe')).rejects.toMatchObject({code: 'USAGE'});
	await expect(last('web', '2020')).rejects.toMatchObject({code: 'USAGE'});
});

test('can be aborted', async () => {
	const {repository} = await repositoryWithDamage();
	const stop = new AbortController();
	const messages$ = verify({repository: repository.path, signal: stop.signal}).pipe(
		tap(({kind}) => {
			if (kind === 'verified') stop.abort(new Error('enough'));
		}),
	);
	await expect(lastValueFrom(messages$)).rejects.toThrow('enough');
});

test('lists points, damaged ones and partial ones', async () => {
	const {repository, sound, damaged, other} = await repositoryWithDamage();
	await createPartialPoint(repository, 'web', eight, 'r9');
	const all = await lastValueFrom(list({repository: repository.path}).pipe(toArray()));
	expect(all).toMatchObject([
		{kind: 'point', vm: 'db', point: {state: 'damaged', id: other.id}},
		{kind: 'point', vm: 'web', point: {state: 'readable', id: sound.id}},
		{kind: 'point', vm: 'web', point: {state: 'readable', id: damaged.id}},
		{kind: 'partial', vm: 'web', owner: 'alive', partial: {owner: {run: 'r9'}}},
	]);
	await expect(lastValueFrom(list({repository: repository.path, vm: 'wbe'}))).rejects.toMatchObject({
		code: 'USAGE',
		hint: 'It has points of: db, web',
	});
});
