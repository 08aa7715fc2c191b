import {createHash} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import {expect, test} from 'vitest';
import {CLUSTER_BYTES, encodeRecords, type HashRecord} from '../../src/images/hash-records.ts';
import {composeHashes, mergeHashes, readHashes, writeHashes} from '../../src/repository/content-hashes.ts';
import {temporaryFolder} from './fixture.ts';

const CLUSTERS = 50_000;
const SIZE = CLUSTERS * CLUSTER_BYTES;

function* records(salt: string): Generator<HashRecord> {
	for (let cluster = 0; cluster < CLUSTERS; cluster += 2) {
		yield {firstCluster: cluster, clusters: 1, content: createHash('sha256').update(`${salt}${cluster}`).digest()};
	}
}

async function readAll(file: string): Promise<HashRecord[]> {
	const all: HashRecord[] = [];
	for await (const record of readHashes(file, SIZE)) all.push(record);
	return all;
}

test('what is written is read, however much it is, and only this user may', async () => {
	const file = path.join(temporaryFolder(), 'a.hashes');
	await writeHashes(file, records('a'));
	expect(await readAll(file)).toEqual([...records('a')]);
	expect(fs.readFileSync(file).equals(encodeRecords(records('a')))).toBe(true);
	expect(fs.statSync(file).mode & 0o777).toBe(0o600);
	await expect(writeHashes(file, [])).rejects.toMatchObject({code: 'EEXIST'});
});

test('no record at all is a file too', async () => {
	const file = path.join(temporaryFolder(), 'a.hashes');
	await writeHashes(file, []);
	expect(fs.statSync(file).size).toBe(16);
	expect(await readAll(file)).toEqual([]);
});

test('a chain is composed from its files', async () => {
	const folder = temporaryFolder();
	const files = ['base', 'tip'].map(name => path.join(folder, name));
	const last = createHash('sha256').update('x').digest();
	await writeHashes(files[0]!, records('a'));
	await writeHashes(files[1]!, [
		{firstCluster: 0, clusters: 10, content: 'zero'},
		{firstCluster: CLUSTERS - 1, clusters: 1, content: last},
	]);
	const hashes = await composeHashes(files, SIZE);
	expect([...hashes.records()].slice(1, -1)).toEqual([...records('a')].slice(5));
	expect(hashes.hashOf(CLUSTERS - 1)).toEqual(last);
	expect(hashes.hashOf(0)).toBe('zero');
});

test.each(['record', 'omit'] as const)('two files become one that says the same (%s)', async zeroes => {
	const folder = temporaryFolder();
	const [base, tip, merged] = ['base', 'tip', 'merged'].map(name => path.join(folder, name)) as [
		string,
		string,
		string,
	];
	await writeHashes(base, records('a'));
	await writeHashes(tip, [
		{firstCluster: 0, clusters: 10, content: 'zero'},
		{firstCluster: 6, clusters: 1, content: createHash('sha256').update('a10').digest()},
	]);
	await mergeHashes({base, tip, merged}, SIZE, zeroes);
	const all = await readAll(merged);
	const before = (await composeHashes([base, tip], SIZE)).records();
	expect(all).toEqual([...before].filter(({content}) => zeroes === 'record' || content !== 'zero'));
	expect(all[0]).toMatchObject(zeroes === 'record' ? {clusters: 6, content: 'zero'} : {firstCluster: 6, clusters: 1});
});

test('a file that is cut, or is a link, is told by its name', async () => {
	const folder = temporaryFolder();
	const file = path.join(folder, 'a.hashes');
	await writeHashes(file, records('a'));
	fs.truncateSync(file, fs.statSync(file).size - 1);
	await expect(readAll(file)).rejects.toMatchObject({
		code: 'DAMAGED',
		message: expect.stringContaining(`${file} is damaged`) as string,
	});
	fs.symlinkSync(file, path.join(folder, 'link'));
	await expect(readAll(path.join(folder, 'link'))).rejects.toMatchObject({code: 'ELOOP'});
});
