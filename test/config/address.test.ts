import {mkdtemp, realpath, rm, symlink} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import fc from 'fast-check';
import {expect, onTestFinished, test} from 'vitest';
import {canonicalAddress, formatAddress, parseAddress} from '../../src/config/address.ts';
import {UsageError} from '../../src/errors.ts';

const unix = fc
	.string({unit: 'grapheme', minLength: 1})
	.filter(path => !path.includes('\0') && Buffer.byteLength(path) <= 107)
	.map(path => ({unix: path}));
const tcp = fc.record({
	host: fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6()),
	port: fc.integer({min: 1, max: 65_535}),
});

test('an address that is written is read as the same one', () => {
	fc.assert(
		fc.property(fc.oneof(unix, tcp), address => {
			expect(parseAddress(formatAddress(address))).toEqual(address);
		}),
	);
});

test('any text is an address or a usage error', () => {
	const text = fc.oneof(
		fc.string(),
		fc.string().map(rest => `tcp:${rest}`),
		fc
			.array(fc.constantFrom('tcp:', 'unix:', '[', ']', ':', '::1', '/', '99999', '80', 'host'))
			.map(parts => parts.join('')),
	);
	fc.assert(
		fc.property(text, text => {
			try {
				expect(parseAddress(formatAddress(parseAddress(text)))).toEqual(parseAddress(text));
			} catch (error) {
				expect(error).toBeInstanceOf(UsageError);
			}
		}),
	);
});

test.each([
	['unix:/run/vm.sock', {unix: '/run/vm.sock'}],
	['/run/vm.sock', {unix: '/run/vm.sock'}],
	['./vm.sock', {unix: './vm.sock'}],
	['unix:vm.sock', {unix: 'vm.sock'}],
	['unix:tcp:localhost:4444', {unix: 'tcp:localhost:4444'}],
	['tcp:localhost:4444', {host: 'localhost', port: 4444}],
	['tcp:10.0.0.7:1', {host: '10.0.0.7', port: 1}],
	['tcp:[fe80::1%eth0]:65535', {host: 'fe80::1%eth0', port: 65_535}],
])('reads %s', (text, address) => {
	expect(parseAddress(text)).toEqual(address);
});

test.each([
	['', /'' is no socket address/],
	['web', /'web' is no socket address/],
	['unix:', /names no socket/],
	['/run/\0', /names no socket/],
	['tcp:', /no socket address/],
	['tcp:localhost', /no socket address/],
	['tcp::4444', /no socket address/],
	['tcp:::1:4444', /no socket address/],
	['tcp:localhost:0', /no socket address/],
	['tcp:localhost:65536', /no socket address/],
	['tcp:localhost:http', /no socket address/],
	['tcp:localhost:-1', /no socket address/],
])('refuses %j', (text, message) => {
	expect(() => parseAddress(text)).toThrow(UsageError);
	expect(() => parseAddress(text)).toThrow(message);
});

test('a path is as long as the kernel takes it, in bytes, and no longer', () => {
	const longest = `/${'é'.repeat(53)}`;
	expect(parseAddress(longest)).toEqual({unix: longest});
	expect(() => parseAddress(`${longest}x`)).toThrow(/longer than 107 bytes/);
});

test('two ways to the same socket have one canonical address', async () => {
	const folder = await realpath(await mkdtemp(join(tmpdir(), 'quiesce-address-')));
	onTestFinished(() => rm(folder, {recursive: true}));
	await symlink(folder, join(folder, 'link'));
	const canonical = `unix:${folder}/vm.sock`;
	await expect(canonicalAddress({unix: `${folder}/vm.sock`})).resolves.toBe(canonical);
	await expect(canonicalAddress({unix: `${folder}/link/vm.sock`})).resolves.toBe(canonical);
	await expect(canonicalAddress({unix: `${folder}/link/./link/../vm.sock`})).resolves.toBe(canonical);
});

test('an address whose folder does not exist is its own canonical one', async () => {
	await expect(canonicalAddress({unix: '/nowhere/at/all.sock'})).resolves.toBe('unix:/nowhere/at/all.sock');
	await expect(canonicalAddress({host: '::1', port: 4444})).resolves.toBe('tcp:[::1]:4444');
});
