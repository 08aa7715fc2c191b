import {expect, test} from 'vitest';
import {BlobBuffer} from '../../src/vma/blobs.ts';
import {decodeHeader} from '../../src/vma/decode-header.ts';
import {VmaDamagedError} from '../../src/vma/errors.ts';
import {EXTENT_HEADER_BYTES} from '../../src/vma/extent.ts';
import {BLOCK_BYTES, CLUSTER_BYTES, FULL_MASK} from '../../src/vma/geometry.ts';
import {encodeHeader, HEADER, type VmaHeader} from '../../src/vma/header.ts';
import {seal} from '../../src/vma/md5.ts';
import {readVma} from '../../src/vma/reader.ts';
import {
	archiveOf,
	areSame,
	clustersInOrder,
	extent,
	headerOf,
	inPieces,
	readBack,
	someContent,
	written,
} from './archives.ts';

const KIB = 1024;

async function damageOf(archive: Buffer): Promise<VmaDamagedError> {
	const error: unknown = await readBack(archive).then(
		() => undefined,
		(thrown: unknown) => thrown,
	);
	expect(error).toBeInstanceOf(VmaDamagedError);
	return error as VmaDamagedError;
}

/** A header in which something is changed, and the MD5 is right. */
function changedHeader(header: VmaHeader, change: (bytes: Buffer) => void): Buffer {
	const bytes = encodeHeader(header);
	change(bytes);
	seal(bytes, HEADER.md5At);
	return bytes;
}

/** Of a device. */
const infoAt = (id: number): number => HEADER.devicesAt + id * HEADER.deviceInfoBytes;

test('a header has every field where the format has it', () => {
	const bytes = encodeHeader(headerOf(CLUSTER_BYTES));
	expect(bytes.length).toBe(12_288 + 512);
	expect(bytes.toString('hex', 0, 8)).toBe('564d410000000001');
	expect(bytes.toString('hex', 8, 24)).toBe('0123456789abcdef0123456789abcdef');
	expect(bytes.readBigInt64BE(24)).toBe(1_700_000_000n);
	expect(bytes.readUInt32BE(48)).toBe(12_288);
	const conf = Buffer.from('\x11\0qemu-server.conf\0\x0c\0memory: 512\n', 'latin1');
	const drive = Buffer.from('\x0d\0drive-scsi0\0'.replace('\x0d', '\x0c'), 'latin1');
	expect(bytes.subarray(12_288, 12_288 + 1 + conf.length + drive.length)).toEqual(
		Buffer.concat([Buffer.alloc(1), conf, drive]),
	);
	expect(bytes.readUInt32BE(52)).toBe(1 + conf.length + drive.length);
	expect(bytes.readUInt32BE(56)).toBe(bytes.length);
	expect(bytes.readUInt32BE(2044)).toBe(1);
	expect(bytes.readUInt32BE(3068)).toBe(1 + 19);
	expect(bytes.readUInt32BE(4096 + 32)).toBe(1 + conf.length);
	expect(bytes.readBigUInt64BE(4096 + 32 + 8)).toBe(65_536n);
});

test('an extent has every field where the format has it', async () => {
	const content = Buffer.alloc(CLUSTER_BYTES);
	content.fill(0xaa, BLOCK_BYTES, 2 * BLOCK_BYTES);
	content[15 * BLOCK_BYTES + 7] = 1;
	const {archive} = await written(headerOf(CLUSTER_BYTES), new Map([['drive-scsi0', content]]));
	const found = archive.subarray(12_800);
	expect(found.length).toBe(512 + 2 * 4096);
	expect(found.toString('hex', 0, 24)).toBe('564d41450000' + '0002' + '0123456789abcdef0123456789abcdef');
	// The mask, a reserved byte, the device, the cluster.
	expect(found.toString('hex', 40, 48)).toBe('8002' + '00' + '01' + '00000000');
	expect(found.subarray(48, 512)).toEqual(Buffer.alloc(464));
	expect(found.subarray(512, 512 + 4096)).toEqual(Buffer.alloc(4096, 0xaa));
});

test('a size of the blobs is read whether it is the used one or padded to 512', () => {
	const header = headerOf(CLUSTER_BYTES);
	expect(decodeHeader(changedHeader(header, bytes => bytes.writeUInt32BE(512, HEADER.blobBytesAt)))).toEqual(header);
	expect(decodeHeader(encodeHeader(header))).toEqual(header);
});

test('devices may have any numbers from 1 to 254, in any order and with gaps', async () => {
	const devices = [7, 254, 3].map(id => ({id, name: `disk${id}`, sizeBytes: 2 * CLUSTER_BYTES}));
	const header = {...headerOf(), devices};
	const contents = new Map(devices.map(({id, name, sizeBytes}) => [name, someContent(sizeBytes, id)]));
	const {archive} = await written(header, contents, clustersInOrder(header).reverse());
	expect(areSame((await readBack(archive)).contents, contents)).toBe(true);
	expect(() => encodeHeader({...header, devices: [{id: 255, name: 'disk', sizeBytes: 512}]})).toThrow('from 1 to 254');
	expect(() => encodeHeader({...header, devices: [{id: 0, name: 'disk', sizeBytes: 512}]})).toThrow('from 1 to 254');
});

test.each([0, 255])('a device with the number %d is refused', async id => {
	const archive = changedHeader(headerOf(512), bytes => bytes.copyWithin(infoAt(id), infoAt(1), infoAt(2)));
	expect((await damageOf(archive)).message).toContain(`found number ${id}`);
});

test('a size that is no multiple of 512 is refused by writer and reader', async () => {
	expect(() => encodeHeader(headerOf(65_536 + 100))).toThrow('no multiple of 512');
	const archive = changedHeader(headerOf(512), bytes => bytes.writeBigUInt64BE(65_636n, infoAt(1) + 8));
	expect(await damageOf(archive)).toMatchObject({offset: infoAt(1) + 8});
});

test.each([512, 4096, 10_498_560, CLUSTER_BYTES - 512, CLUSTER_BYTES + 512, 3 * CLUSTER_BYTES + 4096])(
	'a device of %d bytes reads back the same',
	async sizeBytes => {
		const contents = new Map([['drive-scsi0', someContent(sizeBytes, sizeBytes)]]);
		const {archive} = await written(headerOf(sizeBytes), contents);
		expect(areSame((await readBack(archive)).contents, contents)).toBe(true);
	},
);

test('a header with 256 configuration files of 65535 bytes is written and read', () => {
	const configs = Array.from({length: 256}, (_, index) => ({name: `${index}.conf`, data: Buffer.alloc(65_535, index)}));
	const bytes = encodeHeader({...headerOf(512), configs});
	expect(bytes.length).toBeGreaterThan(16_700_000);
	const found = decodeHeader(bytes).configs;
	expect(found.map(({name}) => name)).toEqual(configs.map(({name}) => name));
	expect(found.every(({data}, index) => data.equals(configs[index]!.data))).toBe(true);
	expect(() => encodeHeader({...headerOf(), configs: [...configs, {name: 'more', data: Buffer.alloc(0)}]})).toThrow(
		'256',
	);
	expect(() => encodeHeader({...headerOf(), configs: [{name: 'long', data: Buffer.alloc(65_536)}]})).toThrow('65535');
});

test('a configuration file with nothing in it is kept', () => {
	const configs = [
		{name: 'qemu-server.fw', data: Buffer.alloc(0)},
		{name: 'qemu-server.conf', data: Buffer.from('x')},
	];
	expect(decodeHeader(encodeHeader({...headerOf(512), configs})).configs).toEqual(configs);
});

test.each(['', '.', '..', '../evil', '/etc/passwd', 'a/b', 'a\0b'])(
	'the name %j is refused by writer and reader',
	async name => {
		expect(() => encodeHeader({...headerOf(), configs: [{name, data: Buffer.alloc(1)}]})).toThrow(
			'cannot be called so',
		);
		expect(() => encodeHeader({...headerOf(), devices: [{id: 1, name, sizeBytes: 512}]})).toThrow(
			'cannot be called so',
		);
		const blobs = new BlobBuffer();
		const pointer = blobs.add(Buffer.from(`${name}\0`));
		for (const at of [HEADER.configNamesAt, infoAt(1)]) {
			const archive = changedHeader({...headerOf(512), configs: []}, bytes => {
				bytes.set(blobs.toBuffer(), HEADER.fixedBytes);
				bytes.writeUInt32BE(pointer, HEADER.configDataAt);
				bytes.writeUInt32BE(0, infoAt(1));
				bytes.writeUInt32BE(pointer, at);
			});
			expect(await damageOf(archive)).toMatchObject({
				offset: at,
				message: expect.stringContaining('safe name') as string,
			});
		}
	},
);

test.each(['two words', 'a\nb', 'tab\t'])('a device called %j is refused', name => {
	expect(() => encodeHeader({...headerOf(), devices: [{id: 1, name, sizeBytes: 512}]})).toThrow('space');
});

test('two devices, or configuration files, of one name are refused by writer and reader', async () => {
	const [one] = headerOf(512).devices;
	expect(() => encodeHeader({...headerOf(), devices: [one!, {...one!, id: 2}]})).toThrow('two devices');
	const [config] = headerOf().configs;
	expect(() => encodeHeader({...headerOf(), configs: [config!, config!]})).toThrow('two configuration files');
	const archive = changedHeader(headerOf(512, 512), bytes => bytes.copyWithin(infoAt(2), infoAt(1), infoAt(2)));
	expect(await damageOf(archive)).toMatchObject({offset: infoAt(2)});
});

test('a configuration file without a pointer to its name or data is skipped', () => {
	for (const at of [HEADER.configNamesAt, HEADER.configDataAt]) {
		const bytes = changedHeader(headerOf(512), header => header.writeUInt32BE(0, at));
		expect(decodeHeader(bytes).configs).toEqual([]);
	}
});

test('a pointer that leads to no blob is refused, also one into a blob', async () => {
	for (const at of [HEADER.configNamesAt, HEADER.configDataAt, infoAt(1)]) {
		for (const pointer of [2, 10_000, 0xffff_ffff]) {
			const archive = changedHeader(headerOf(512), bytes => bytes.writeUInt32BE(pointer, at));
			expect(await damageOf(archive)).toMatchObject({
				offset: at,
				message: expect.stringContaining('pointer') as string,
			});
		}
	}
});

test('a name without a NUL at its end, or not in UTF-8, is refused', async () => {
	const nameless = changedHeader(headerOf(512), bytes => (bytes[HEADER.fixedBytes + 1 + 2 + 16] = 0x41));
	expect((await damageOf(nameless)).message).toContain('ends with a NUL');
	const foreign = changedHeader(headerOf(512), bytes => (bytes[HEADER.fixedBytes + 1 + 2] = 0xff));
	expect((await damageOf(foreign)).message).toContain('UTF-8');
});

test('blobs outside of the header are refused', async () => {
	for (const [at, value] of [
		[HEADER.blobsAt, 12_287],
		[HEADER.blobsAt, 0xffff_0000],
		[HEADER.blobBytesAt, 513],
		[HEADER.blobBytesAt, 0xffff_ffff],
	] as const) {
		const archive = changedHeader(headerOf(512), bytes => bytes.writeUInt32BE(value, at));
		expect(await damageOf(archive)).toMatchObject({offset: HEADER.blobsAt});
	}
});

test.each([
	['magic', 0, 0, 'VMA'],
	['version', HEADER.versionAt, 2, 'version 1'],
	['length, which is too short for a blob', HEADER.bytesAt, 12_288, 'more than 12288'],
	['length, which is too long', HEADER.bytesAt, 0xffff_ffff, 'at most 67108864'],
])('another %s is refused', async (_, at, value, expected) => {
	const archive = changedHeader(headerOf(512), bytes => bytes.writeUInt32BE(value, at));
	expect(await damageOf(archive)).toMatchObject({offset: at, message: expect.stringContaining(expected) as string});
});

test('a device without a size, or without a name, is none', () => {
	for (const at of [infoAt(1), infoAt(1) + 12]) {
		const bytes = changedHeader(headerOf(512), header => header.writeUInt32BE(0, at));
		expect(decodeHeader(bytes).devices).toEqual([]);
	}
	expect(() => encodeHeader(headerOf(0))).toThrow('none may be empty');
});

test('sizes beyond what is read are refused before any memory is taken for them', async () => {
	expect(() => encodeHeader(headerOf(2 ** 48 + 512))).toThrow('256 TiB');
	for (const size of [2n ** 63n, 2n ** 48n + 512n, 2n ** 47n]) {
		const archive = changedHeader(headerOf(512), bytes => bytes.writeBigUInt64BE(size, infoAt(1) + 8));
		expect(await damageOf(archive)).toMatchObject({offset: infoAt(1) + 8});
	}
});

test('an archive without disks is read, with and without an empty extent', async () => {
	for (const extents of [[], [extent([])], [extent([]), extent([])]]) {
		expect((await readBack(archiveOf(headerOf(), ...extents))).header.devices).toEqual([]);
	}
});

test('extents with 1, 58 and 59 clusters are read, with devices mixed, in any order', async () => {
	const entries = Array.from({length: 118}, (_, index) => ({
		deviceId: 1 + (index % 2),
		cluster: 58 - (index >> 1),
		mask: FULL_MASK,
		fill: index,
	}));
	const archive = archiveOf(
		headerOf(59 * CLUSTER_BYTES, 59 * CLUSTER_BYTES),
		extent(entries.slice(0, 1)),
		extent(entries.slice(1, 59)),
		extent(entries.slice(59)),
	);
	const {contents} = await readBack(archive);
	for (const {deviceId, cluster, fill} of entries) {
		const disk = contents.get(`drive-scsi${deviceId - 1}`)!;
		expect(disk[cluster * CLUSTER_BYTES]).toBe(fill);
		expect(disk[(cluster + 1) * CLUSTER_BYTES - 1]).toBe(fill);
	}
});

test('empty places of an extent are skipped wherever they are, whatever else stands there', async () => {
	const stored = {deviceId: 1, cluster: 0, mask: 1, fill: 5};
	for (const header of [
		extent([stored], {slots: [58]}),
		extent([{deviceId: 0, cluster: 9, mask: FULL_MASK}, stored]),
	]) {
		expect((await readBack(archiveOf(headerOf(CLUSTER_BYTES), header))).contents.get('drive-scsi0')![0]).toBe(5);
	}
});

test('zeroes are told, 8 bytes a cluster: 64 MiB of them take 9216 bytes', async () => {
	const size = 64 * KIB * KIB;
	const {archive} = await written(headerOf(size), new Map([['drive-scsi0', Buffer.alloc(size)]]));
	expect(archive.length - encodeHeader(headerOf(size)).length).toBe(9216);
});

test('a block of zeroes that is stored is read as any other', async () => {
	const archive = archiveOf(headerOf(CLUSTER_BYTES), extent([{deviceId: 1, cluster: 0, mask: 0x0011}]));
	expect((await readBack(archive)).contents.get('drive-scsi0')).toEqual(Buffer.alloc(CLUSTER_BYTES));
});

test('the block in which a device ends is stored whole, filled up with zeroes; those after it are not', async () => {
	const size = CLUSTER_BYTES + BLOCK_BYTES + 512;
	// What follows the device in memory must not come into the archive.
	const content = Buffer.alloc(2 * CLUSTER_BYTES, 0xff).subarray(0, size);
	const {archive} = await written(headerOf(size), new Map([['drive-scsi0', content]]));
	expect(archive.readUInt16BE(12_800 + 48)).toBe(0b11);
	expect(archive.subarray(-BLOCK_BYTES)).toEqual(
		Buffer.concat([Buffer.alloc(512, 0xff), Buffer.alloc(BLOCK_BYTES - 512)]),
	);
});

test('a last cluster may be stored whole, but no other block beyond the end', async () => {
	const header = headerOf(BLOCK_BYTES + 512);
	const whole = archiveOf(header, extent([{deviceId: 1, cluster: 0, mask: FULL_MASK, fill: 3}]));
	expect((await readBack(whole)).contents.get('drive-scsi0')).toEqual(Buffer.alloc(BLOCK_BYTES + 512, 3));
	for (const mask of [0b100, 0x8000, 0xfffe]) {
		const error = await damageOf(archiveOf(header, extent([{deviceId: 1, cluster: 0, mask}])));
		expect(error).toMatchObject({offset: 12_800 + 40, message: expect.stringContaining('beyond the end') as string});
	}
});

test('a cluster that comes twice is refused where it comes again', async () => {
	const header = headerOf(2 * CLUSTER_BYTES);
	const cluster = {deviceId: 1, cluster: 0, mask: 0};
	expect(await damageOf(archiveOf(header, extent([cluster, cluster])))).toMatchObject({offset: 12_800 + 48});
	expect(await damageOf(archiveOf(header, extent([cluster]), extent([cluster])))).toMatchObject({
		offset: 12_800 + 512 + 40,
		message: expect.stringContaining('cluster 0 of drive-scsi0 again') as string,
	});
});

test.each([1, 2, 0xffff_ffff])('cluster %d of a device that has one is refused', async cluster => {
	const archive = archiveOf(headerOf(CLUSTER_BYTES), extent([{deviceId: 1, cluster, mask: 0}]));
	expect(await damageOf(archive)).toMatchObject({offset: 12_800 + 40});
});

test('a cluster of a device that the header lacks is refused', async () => {
	for (const deviceId of [2, 255, 0x0101]) {
		const archive = archiveOf(headerOf(CLUSTER_BYTES), extent([{deviceId, cluster: 0, mask: 0}]));
		expect((await damageOf(archive)).message).toContain(`found number ${deviceId}`);
	}
});

test('missing clusters are refused: of a header alone, and of a file cut between two extents', async () => {
	const size = 200 * CLUSTER_BYTES;
	const {archive} = await written(headerOf(size), new Map([['drive-scsi0', Buffer.alloc(size)]]));
	expect((await damageOf(archive.subarray(0, 12_800))).message).toContain('cluster 0 of drive-scsi0 and 199 more');
	expect(await damageOf(archive.subarray(0, -EXTENT_HEADER_BYTES))).toMatchObject({
		offset: archive.length - EXTENT_HEADER_BYTES,
		message: expect.stringContaining('cluster 177 of drive-scsi0 and 22 more') as string,
	});
});

test('bytes after the end are refused, but no empty extents', async () => {
	const {archive} = await written(headerOf(512), new Map([['drive-scsi0', Buffer.alloc(512, 1)]]));
	for (const more of [Buffer.alloc(1), Buffer.alloc(512), Buffer.from('VMAE'), archive]) {
		expect((await damageOf(Buffer.concat([archive, more]))).offset).toBeGreaterThanOrEqual(archive.length);
	}
	await expect(readBack(Buffer.concat([archive, extent([])]))).resolves.toBeDefined();
});

test('an extent is refused whose header is not what it should be', async () => {
	const header = headerOf(CLUSTER_BYTES);
	const entries = [{deviceId: 1, cluster: 0, mask: 0b11}];
	const uuid = '11234567-89ab-cdef-0123-456789abcdef';
	for (const [bytes, offset] of [
		[extent(entries, {change: extentHeader => extentHeader.write('VMAX')}), 0],
		[extent(entries, {change: extentHeader => extentHeader.writeUInt16BE(1, 4)}), 4],
		[extent(entries, {blocks: 1}), 6],
		[extent(entries, {blocks: 3}), 6],
		[extent(entries, {uuid}), 8],
	] as const) {
		expect(await damageOf(archiveOf(header, bytes))).toMatchObject({offset: 12_800 + offset});
	}
	const flipped = extent(entries);
	flipped[500]! ^= 1;
	expect(await damageOf(archiveOf(header, flipped))).toMatchObject({offset: 12_800 + 24});
});

test('the RAM of a foreign archive is read in its order and without an end, and never written', async () => {
	const header = {...headerOf(), devices: [{id: 9, name: 'drive-scsi0', sizeBytes: 512}]};
	expect(() => encodeHeader({...header, devices: [{id: 9, name: 'vmstate', sizeBytes: 512}]})).toThrow('stream of RAM');
	const foreign = changedHeader(header, bytes => {
		const at = bytes.indexOf('drive-scsi0\0');
		bytes.writeUInt16LE('vmstate\0'.length, at - 2);
		bytes.write('vmstate\0\0\0\0\0', at, 'latin1');
	});
	const ram = (...clusters: number[]) => extent(clusters.map(cluster => ({deviceId: 9, cluster, mask: FULL_MASK})));
	await expect(readEvents(Buffer.concat([foreign, ram(0, 1), ram(2)]))).resolves.toBe(3);
	for (const [archive, offset] of [
		[Buffer.concat([foreign, ram(1)]), foreign.length + 40],
		[Buffer.concat([foreign, ram(0, 2)]), foreign.length + 48],
		[Buffer.concat([foreign, ram(0, 0)]), foreign.length + 48],
	] as const) {
		await expect(readEvents(archive)).rejects.toMatchObject({offset});
	}
});

async function readEvents(archive: Buffer): Promise<number> {
	let clusters = 0;
	for await (const event of readVma(inPieces(archive))) if (event.kind === 'cluster') clusters++;
	return clusters;
}
