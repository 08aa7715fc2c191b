import fc from 'fast-check';
import {expect, test} from 'vitest';
import {commandLineFacts} from '../../src/host/command-line-facts.ts';
import {parseCommandLine} from '../../src/host/command-line.ts';

const factsOf = (...args: string[]) => commandLineFacts(parseCommandLine(args));
const socket = '-chardev socket,id=c,';

test.each([
	[['-name', 'web'], 'web'],
	[['-name', 'a,,b,debug-threads=on'], 'a,b'],
	[['-name', 'debug-threads=on,guest=web'], 'web'],
	[['-name', 'old', '-name', 'new'], 'new'],
	[['-append', '-name', '-m', '1G'], undefined],
])('%j names the VM %s', (args, name) => {
	expect(factsOf(...args).name).toBe(name);
});

test.each([
	['-qmp unix:/run/a.sock,server=on,wait=off', {unix: '/run/a.sock'}],
	['-qmp-pretty unix:/run/a,,b.sock,server,nowait', {unix: '/run/a,b.sock'}],
	['-qmp unix:qmp.sock,server=on', {unix: 'qmp.sock'}],
	['-qmp tcp:localhost:4444,server=on', {host: 'localhost', port: 4444}],
	['-qmp tcp::4444,server=on,wait=off', {host: '127.0.0.1', port: 4444}],
	['-qmp tcp:[::1]:4444,server=on', {host: '::1', port: 4444}],
	[`${socket}path=/a,server=on -mon chardev=c,mode=control`, {unix: '/a'}],
	[`${socket}path=/a,server=on -mon c,mode=control,pretty=on`, {unix: '/a'}],
	[`${socket}path=/a,server=on -qmp chardev:c`, {unix: '/a'}],
	[`${socket}host=0.0.0.0,port=4444,server=on -mon c,mode=control`, {host: '127.0.0.1', port: 4444}],
	[`${socket}host=::,port=4444,server=on -mon c,mode=control`, {host: '::1', port: 4444}],
	[`${socket}fd=30,server=on,wait=off -mon chardev=c,mode=control`, {fd: 30}],
	['-qmp stdio', {unusable: "it is no socket but 'stdio'"}],
	['-qmp unix:/a', {unusable: 'it connects out and does not listen (no server=on)'}],
	['-qmp telnet::4444,server=on', {unusable: 'it speaks telnet'}],
	[`${socket}path=/a,server=on,abstract=on -mon c,mode=control`, {unusable: 'its socket is an abstract one'}],
	[`${socket}port=qmp,server=on -mon c,mode=control`, {unusable: "its TCP port 'qmp' is no number"}],
	['-mon x,mode=control', {unusable: "its chardev 'x' is not on the command line"}],
])('%s', (args, endpoint) => {
	expect(factsOf(...args.split(' ')).monitors).toMatchObject([{endpoint}]);
});

test('monitors for people are not among those that speak QMP, but their sockets are known', () => {
	const facts = factsOf('-monitor', 'unix:/hmp,server=on', '-chardev', 'socket,id=c,path=/mon,server=on', '-mon', 'c');
	expect(facts).toMatchObject({monitors: [], unixSockets: ['/mon', '/hmp']});
});

test('a Proxmox VM', () => {
	const facts = factsOf(
		...'-id 100 -name web,debug-threads=on -no-shutdown'.split(' '),
		...'-chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off -mon chardev=qmp,mode=control'.split(
			' ',
		),
		...'-chardev socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect=5 -mon chardev=qmp-event,mode=control'.split(
			' ',
		),
		...'-smbios type=1,uuid=3B0F6C1E-6F0E-4B53-9D3E-5A1D7C2F8E90 -daemonize -uuid 3B0F6C1E-6F0E-4B53-9D3E-5A1D7C2F8E90'.split(
			' ',
		),
		...'-chardev socket,path=/var/run/qemu-server/100.qga,server=on,wait=off,id=qga0'.split(' '),
		...'-device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0'.split(' '),
	);
	expect(facts).toMatchObject({
		name: 'web',
		uuid: '3b0f6c1e-6f0e-4b53-9d3e-5a1d7c2f8e90',
		monitors: [
			{endpoint: {unix: '/var/run/qemu-server/100.qmp'}},
			{endpoint: {unusable: expect.stringContaining('server=on') as string}},
		],
		agent: {unix: '/var/run/qemu-server/100.qga'},
	});
});

test('a libvirt VM', () => {
	const facts = factsOf(
		'-name',
		'guest=web,debug-threads=on',
		'-chardev',
		'socket,id=charmonitor,fd=28,server=on,wait=off',
		'-mon',
		'chardev=charmonitor,id=monitor,mode=control',
		'-chardev',
		'socket,id=charchannel0,fd=27,server=on,wait=off',
		'-device',
		'{"driver":"virtserialport","bus":"virtio-serial0.0","nr":1,"chardev":"charchannel0","id":"channel0","name":"org.qemu.guest_agent.0"}',
	);
	expect(facts).toMatchObject({monitors: [{chardev: 'charmonitor', endpoint: {fd: 28}}], agent: {fd: 27}});
});

test('the user it changes to', () => {
	expect(factsOf('-runas', 'nobody').runAs).toBe('nobody');
	expect(factsOf('-run-with', 'user=qemu,async-teardown=on').runAs).toBe('qemu');
});

test('no command line makes it fail', () => {
	const word = fc.oneof(
		fc.string(),
		fc.constantFrom(
			'-qmp',
			'-mon',
			'-chardev',
			'-name',
			'-device',
			'-monitor',
			'-uuid',
			'socket,id=',
			'{"id":{}}',
			'unix:',
			'tcp:',
			'__proto__=1',
		),
	);
	fc.assert(
		fc.property(fc.array(word), args => {
			expect(Array.isArray(factsOf(...args).monitors)).toBe(true);
		}),
	);
});
