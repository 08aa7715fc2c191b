import {expect, test} from 'vitest';
import {capabilitiesOf} from '../../src/block/probe.ts';
import {readSchema, repliesOf, versions} from './recordings.ts';

/** Holds probes and releases against each other: a probe that looks in the wrong place finds nothing anywhere. */
test.for(versions)('QEMU %s has what was there by its release, and nothing else', version => {
	const info = repliesOf(version, 'empty')['query-version'];
	const {major, minor} = info.qemu;
	for (const {name, available, since} of Object.values(capabilitiesOf(readSchema(version), info))) {
		const [sinceMajor = 0, sinceMinor = 0] = since.split('.').map(Number);
		expect(available, name).toBe(major > sinceMajor || (major === sinceMajor && minor >= sinceMinor));
	}
});

test('the schema decides, and the version only where the schema cannot tell', () => {
	const version = {qemu: {major: 11, minor: 1, micro: 0}, package: ''};
	const capabilities = capabilitiesOf(readSchema('7.2'), version);
	expect(capabilities['backup-on-cbw-error'].available).toBe(false);
	expect(capabilities['pull-with-iothreads'].available).toBe(true);
});
