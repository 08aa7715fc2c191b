import {zstdCompressSync} from 'node:zlib';
import {expect, test} from 'vitest';
import {CLUSTER_BYTES} from '../../src/vma/geometry.ts';
import {VmaIndexReader} from '../../src/vma/index-reader.ts';
import {decodeSection, encodeSection, MAX_BASE64_CHARACTERS, MAX_EXTENTS} from '../../src/vma/index-section.ts';
import {checkedAgainst, readVma} from '../../src/vma/reader.ts';
import {type Archive, contentsOf, headerOf, inPieces, seeded, someContent, UUID, written} from './archives.ts';

const size = 200 * CLUSTER_BYTES + 512;

function archive(): Promise<Archive> {
	return written(headerOf(size), new Map([['drive-scsi0', someContent(size, 1)]]));
}

async function check(bytes: Buffer, index: Buffer): Promise<unknown> {
	return contentsOf(checkedAgainst(await VmaIndexReader.open(inPieces(index)), readVma(inPieces(bytes))));
}

test('an index is one JSON document', async () => {
	const {archive: bytes, index} = await archive();
	const document = JSON.parse(index.toString()) as unknown;
	expect(document).toEqual({
		format: 1,
		uuid: UUID,
		headerMd5: bytes.toString('hex', 32, 48),
		headerBytes: 12_800,
		createdSeconds: 1_700_000_000,
		devices: [{id: 1, name: 'drive-scsi0', sizeBytes: size}],
		sections: [expect.any(String)],
		summary: {
			archiveBytes: bytes.length,
			extents: 4,
			clusters: 201,
			sha256: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
		},
	});
});

test('a flipped bit of the data, which nothing in the archive covers, is found by the index, with the place', async () => {
	const {archive: bytes, index} = await archive();
	await expect(check(bytes, index)).resolves.toBeDefined();
	const at = bytes.length - 4096;
	const flipped = Buffer.from(bytes);
	flipped[at]! ^= 1;
	await expect(contentsOf(readVma(inPieces(flipped)))).resolves.toBeDefined();
	await expect(check(flipped, index)).rejects.toMatchObject({code: 'DAMAGED', offset: at});
});

test('an index that says more, or less, than there is in the archive is refused', async () => {
	const one = await archive();
	const {index: more} = await written({...headerOf(size)}, new Map([['drive-scsi0', Buffer.alloc(size, 1)]]));
	await expect(check(one.archive, more)).rejects.toThrow('expected the extent that the index tells of');
	const text = one.index.toString();
	const withoutSection = Buffer.from(text.replace(/^"[^"]+"\n/m, ''));
	await expect(check(one.archive, withoutSection)).rejects.toThrow('is damaged: its last line');
	const twice = Buffer.from(text.replace(/^("[^"]+"\n)/m, '$1,$1'));
	await expect(check(one.archive, twice)).rejects.toThrow('expected another extent, as in the index, found the end');
});

test.each([
	['of a later format', /"format":1/, '"format":2', 'has format 2, and this program reads 1'],
	['with a size that is none', /"sizeBytes":\d+/, '"sizeBytes":-1', 'devices.0.sizeBytes'],
	['that is no JSON', /^\{/, '', 'its first line is no JSON'],
	['with a line that is no section', /^"/m, 'x', 'a line is no section'],
	['with a section that cannot be unpacked', /^"..../m, '"AAAA', 'cannot be unpacked'],
	['without an end', /\],"summary.*\n/, '', 'its last line is missing'],
])('an index %s is refused', async (_, pattern, by, message) => {
	const {archive: bytes, index} = await archive();
	const text = index.toString();
	expect(text).toMatch(pattern);
	await expect(check(bytes, Buffer.from(text.replace(pattern, by)))).rejects.toMatchObject({
		code: 'DAMAGED',
		message: expect.stringContaining(message) as string,
	});
});

test('a section of clusters in order takes next to nothing but their checksums, and a full one is read', () => {
	const extents = (mask: number, checksum: () => number) =>
		Array.from({length: MAX_EXTENTS}, (_, extent) => {
			const entries = Buffer.alloc(59 * 8);
			for (let slot = 0; slot < 59; slot++) {
				entries.writeUInt16BE(mask, slot * 8);
				entries.writeUInt16BE(1, slot * 8 + 2);
				entries.writeUInt32BE(extent * 59 + slot, slot * 8 + 4);
			}
			return {entries, checksums: Array.from({length: 59}, checksum)};
		});
	const random = seeded(1);
	const full = extents(0xffff, () => random(2 ** 32));
	const data = encodeSection(full);
	expect(JSON.stringify(decodeSection(data)) === JSON.stringify(full)).toBe(true);
	expect(data.length).toBeLessThan(MAX_EXTENTS * 59 * 5.6);
	expect(data.length).toBeLessThan(MAX_BASE64_CHARACTERS);
	expect(encodeSection(extents(0, () => 0)).length).toBeLessThan(2000);
});

test('an index cannot make its reader take more memory than a section', async () => {
	const bomb = zstdCompressSync(Buffer.alloc(256 * 1024 * 1024)).toString('base64');
	expect(() => decodeSection(bomb)).toThrow('cannot be unpacked');
	const endless = async function* () {
		await Promise.resolve();
		for (;;) yield Buffer.alloc(1024 * 1024, 'A');
	};
	await expect(VmaIndexReader.open(endless())).rejects.toThrow('a line has more than');
});
