import net from 'node:net';
import fc from 'fast-check';
import {firstValueFrom, lastValueFrom, toArray} from 'rxjs';
import {describe, expect, onTestFinished, test, vi} from 'vitest';
import {QuiesceError} from '../../src/errors.ts';
import {QmpConnection, type QmpOptions} from '../../src/qmp/connection.ts';
import {
	QmpCommandError,
	QmpDisconnectedError,
	QmpProtocolError,
	QmpTimeoutError,
	UnreachableError,
} from '../../src/qmp/errors.ts';
import type {QmpOutOfBandCommands} from '../../src/qmp/schema.ts';
import {type FakeClient, FakeQemu} from '../support/fake-qemu.ts';

/** A session with a fake QEMU, and the fake's end of it. */
async function session(capabilities?: string[]): Promise<{qmp: QmpConnection; client: FakeClient; qemu: FakeQemu}> {
	const qemu = await FakeQemu.listen();
	const {opening, client} = await arrive(qemu);
	await client.negotiate(capabilities);
	return {qmp: await opening, client, qemu};
}

/** A client that has connected, and waits for what the fake does. */
async function arrive(
	qemu: FakeQemu,
	options?: QmpOptions,
): Promise<{opening: Promise<QmpConnection>; client: FakeClient}> {
	const opening = QmpConnection.open(qemu.address, options);
	// The test looks at it when the fake has done its part.
	opening.catch(() => undefined);
	return {opening, client: await qemu.accept()};
}

function useFakeTimers(): void {
	vi.useFakeTimers({toFake: ['setTimeout', 'clearTimeout']});
	onTestFinished(() => {
		vi.useRealTimers();
	});
}

const yank: QmpOutOfBandCommands['yank']['arguments'] = {instances: [{'type': 'block-node', 'node-name': 'target'}]};

const jsonBits = fc
	.constantFrom('{', '}', '[', ']', '"', ':', ',', '\\', 'null', '{}', '[]', '1e999')
	.map(bit => Buffer.from(bit));

function splice(bytes: Buffer, {at, remove, insert}: {at: number; remove: number; insert: Uint8Array}): Buffer {
	return Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]);
}

describe('negotiation', () => {
	test('asks for oob where it is offered', async () => {
		const qemu = await FakeQemu.listen();
		const {opening, client} = await arrive(qemu);
		client.greet(['oob']);
		const command = await client.expect('qmp_capabilities');
		expect(command.arguments).toEqual({enable: ['oob']});
		client.reply(command);
		const qmp = await opening;
		expect(qmp.version).toEqual({qemu: {major: 11, minor: 1, micro: 3}, package: ''});
		expect(qmp.name).toBe(`unix:${qemu.address.unix}`);
	});

	test.each([[[]], [['something-new', 7, null]]])('asks for nothing where %j is offered', async capabilities => {
		const qemu = await FakeQemu.listen();
		const {opening, client} = await arrive(qemu);
		client.greet(capabilities);
		const command = await client.expect('qmp_capabilities');
		expect(command.arguments).toEqual({enable: []});
		client.reply(command);
		const qmp = await opening;
		await expect(qmp.executeOutOfBand('yank', yank)).rejects.toThrow('this monitor takes no out-of-band commands');
	});

	test('a refusal says so', async () => {
		const {opening, client} = await arrive(await FakeQemu.listen());
		client.greet();
		client.refuse(await client.expect('qmp_capabilities'), 'Capability oob is not available');
		await expect(opening).rejects.toThrow('QEMU refused qmp_capabilities: Capability oob is not available');
		await client.expectToLeave();
	});

	test('what was meant for the client before us is not taken for ours', async () => {
		const {opening, client} = await arrive(await FakeQemu.listen());
		client.greet();
		const command = await client.expect('qmp_capabilities');
		client.send('{"return": {"stale": true}, "id": "qsc-0123456789ab-1"}\r\n');
		client.send('{"error": {"class": "GenericError", "desc": "JSON parse error"}}\r\n');
		client.send('{"error": {"class": "GenericError", "desc": "stale"}, "id": "qsc-0123456789ab-2"}\r\n');
		client.send('{"return": {}}\r\n{"return": {}, "id": 1}\r\n{"return": {}, "id": null}\r\n');
		client.reply(command);
		const qmp = await opening;
		const names = qmp.execute('query-name');
		client.send('{"return": {"name": "stale"}, "id": "qsc-0123456789ab-2"}\r\n');
		client.reply(await client.expect('query-name'), {name: 'ours'});
		await expect(names).resolves.toEqual({name: 'ours'});
	});

	test('no two commands of any two clients have the same id', async () => {
		const qemu = await FakeQemu.listen();
		const ids: string[] = [];
		for (let round = 0; round < 3; round++) {
			const {opening, client} = await arrive(qemu);
			client.greet();
			const negotiation = await client.expect('qmp_capabilities');
			client.reply(negotiation);
			void (await opening).execute('quit').catch(() => undefined);
			ids.push(negotiation.id, (await client.expect('quit')).id);
			client.cut();
		}
		expect(new Set(ids).size).toBe(6);
	});
});

describe('an opening that fails', () => {
	test('says that the monitor is busy when no greeting comes', async () => {
		useFakeTimers();
		const {opening, client} = await arrive(await FakeQemu.listen());
		await vi.advanceTimersByTimeAsync(5_000);
		const error: unknown = await opening.catch((error: unknown) => error);
		expect(error).toBeInstanceOf(UnreachableError);
		expect(error).toMatchObject({
			message: expect.stringMatching(/^monitor busy: unix:.*qmp.sock accepted us but sent no greeting$/) as string,
			hint: expect.stringContaining('second monitor') as string,
		});
		await client.expectToLeave();
	});

	test('says that QEMU hangs when it greets and then answers nothing', async () => {
		useFakeTimers();
		const {opening, client} = await arrive(await FakeQemu.listen());
		client.greet();
		await client.expect('qmp_capabilities');
		await vi.advanceTimersByTimeAsync(5_000);
		await expect(opening).rejects.toThrow(/greeted us but did not answer qmp_capabilities/);
		await expect(opening).rejects.toBeInstanceOf(UnreachableError);
		await client.expectToLeave();
	});

	test('says when the peer leaves without a greeting', async () => {
		const {opening, client} = await arrive(await FakeQemu.listen());
		client.leave();
		await expect(opening).rejects.toThrow(/closed the connection without a QMP greeting/);
		await expect(opening).rejects.toBeInstanceOf(UnreachableError);
	});

	test('says when the peer leaves after its greeting', async () => {
		const {opening, client} = await arrive(await FakeQemu.listen());
		client.greet();
		await client.expect('qmp_capabilities');
		client.leave();
		await expect(opening).rejects.toThrow(/closed the connection after its greeting/);
		await expect(opening).rejects.toBeInstanceOf(UnreachableError);
	});

	test.each([
		['another protocol', 'SSH-2.0-OpenSSH_9.2p1 Debian\r\n'],
		['an array', '[{"QMP": {}}]'],
		['what is no JSON', '{"QMP": }'],
		['mismatched brackets', '{"QMP": {]}'],
		['endless nesting', `{"QMP": ${'['.repeat(5_000)}`],
		['a greeting that is null', '{"QMP": null}'],
		['a greeting that is a list', '{"QMP": []}'],
		['a greeting without a version', '{"QMP": {"capabilities": []}}'],
		['a version of text', '{"QMP": {"version": "11.1", "capabilities": []}}'],
		['version parts of text', '{"QMP": {"version": {"qemu": {"major": "11", "minor": "1", "micro": "3"}}}}'],
		['an error of text', '{"error": "go away"}'],
		['an error that is null', '{"error": null}'],
		['an error whose text is an object', '{"error": {"class": "GenericError", "desc": {"toString": 1}}}'],
		['an object of its own', '{"jsonrpc": "2.0", "result": {}}'],
	])('tells that %s is not QMP', async (_what, sent) => {
		const {opening, client} = await arrive(await FakeQemu.listen());
		client.send(sent);
		await expect(opening).rejects.toBeInstanceOf(QmpProtocolError);
		await expect(opening).rejects.toThrow(/^unix:.*qmp.sock is not a QMP monitor: /);
		await client.expectToLeave();
	});

	test('ends when a string does not', async () => {
		// However long 64 MiB take here, the greeting is not late.
		useFakeTimers();
		const {opening, client} = await arrive(await FakeQemu.listen());
		client.send('{"QMP": "');
		for (let sent = 0; sent <= 64; sent++) client.send(Buffer.alloc(1024 * 1024, 'x'));
		await expect(opening).rejects.toThrow(/is not a QMP monitor: a message is longer than 67108864 bytes/);
	});

	test('takes a greeting that says less than usual', async () => {
		const {opening, client} = await arrive(await FakeQemu.listen());
		client.send('{"QMP": {"version": {"qemu": {"major": 9, "minor": 0, "micro": 50}}, "capabilities": {"oob": 1}}}');
		const command = await client.expect('qmp_capabilities');
		expect(command.arguments).toEqual({enable: []});
		client.reply(command);
		expect((await opening).version).toEqual({qemu: {major: 9, minor: 0, micro: 50}, package: ''});
	});

	test('never crashes nor hangs, whatever arrives', async () => {
		const qemu = await FakeQemu.listen();
		const greeting = Buffer.from(
			'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}\r\n' +
				'{"return": {}, "id": "qsc-0123456789ab-1"}\r\n{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}',
		);
		const mutated = fc
			.array(
				fc.record({
					at: fc.nat(greeting.length),
					remove: fc.nat(30),
					insert: fc.oneof(fc.uint8Array({maxLength: 4}), jsonBits),
				}),
				{
					maxLength: 4,
				},
			)
			.map(edits => edits.reduce<Buffer>((bytes, edit) => splice(bytes, edit), greeting));
		await fc.assert(
			fc.asyncProperty(fc.oneof(fc.uint8Array({maxLength: 300}), mutated), fc.boolean(), async (bytes, abruptly) => {
				const {opening, client} = await arrive(qemu);
				client.send(bytes);
				if (abruptly) client.cut();
				else client.leave();
				await expect(opening).rejects.toBeInstanceOf(QuiesceError);
			}),
			{numRuns: 300},
		);
	});
});

describe('cancelling', () => {
	test('nothing is opened for a signal that is aborted', async () => {
		const qemu = await FakeQemu.listen();
		const signal = AbortSignal.abort(new Error('too late'));
		await expect(QmpConnection.open(qemu.address, {signal})).rejects.toThrow('too late');
	});

	test('a connected socket is closed for a signal that is aborted', async () => {
		const qemu = await FakeQemu.listen();
		const socket = net.connect(qemu.address.unix);
		const client = await qemu.accept();
		const signal = AbortSignal.abort(new Error('too late'));
		await expect(QmpConnection.over(socket, 'this one', {signal})).rejects.toThrow('too late');
		await client.expectToLeave();
	});

	test('an abort while connecting ends the opening', async () => {
		const qemu = await FakeQemu.listen();
		const controller = new AbortController();
		const opening = QmpConnection.open(qemu.address, {signal: controller.signal});
		controller.abort(new Error('enough'));
		await expect(opening).rejects.toThrow('enough');
	});

	test.each(['before the greeting', 'after the greeting'])(
		'an abort %s ends the opening, and the peer sees us leave',
		async when => {
			const controller = new AbortController();
			const {opening, client} = await arrive(await FakeQemu.listen(), {signal: controller.signal});
			if (when === 'after the greeting') {
				client.greet();
				await client.expect('qmp_capabilities');
			}
			controller.abort(new Error('enough'));
			await expect(opening).rejects.toThrow('enough');
			await client.expectToLeave();
		},
	);

	test('an abort once it is open changes nothing', async () => {
		const controller = new AbortController();
		const {opening, client} = await arrive(await FakeQemu.listen(), {signal: controller.signal});
		await client.negotiate();
		const qmp = await opening;
		controller.abort();
		const name = qmp.execute('query-name');
		client.reply(await client.expect('query-name'), {name: 'web'});
		await expect(name).resolves.toEqual({name: 'web'});
	});
});

describe('a command', () => {
	test('sends its arguments as they are and gives back what is returned', async () => {
		const {qmp, client} = await session();
		const reply = qmp.execute('block-export-del', {id: 'a "b" \\ é', mode: 'hard'});
		const command = await client.expect('block-export-del');
		expect(command).toEqual({
			execute: 'block-export-del',
			arguments: {id: 'a "b" \\ é', mode: 'hard'},
			id: command.id,
		});
		client.reply(command, {});
		await expect(reply).resolves.toEqual({});
	});

	test('that takes no arguments sends none', async () => {
		const {qmp, client} = await session();
		void qmp.execute('query-jobs').catch(() => undefined);
		expect(await client.expect('query-jobs')).not.toHaveProperty('arguments');
	});

	test('that is refused tells the class and the text', async () => {
		const {qmp, client} = await session();
		const reply = qmp.execute('job-dismiss', {id: 'qsc-1'});
		client.refuse(await client.expect('job-dismiss'), 'Job not found', 'DeviceNotActive');
		const error: unknown = await reply.catch((error: unknown) => error);
		expect(error).toBeInstanceOf(QmpCommandError);
		expect(error).toMatchObject({
			code: 'REFUSED',
			command: 'job-dismiss',
			errorClass: 'DeviceNotActive',
			message: 'QEMU refused job-dismiss: Job not found',
		});
	});

	test('is matched with its reply by id, in whatever order replies come', async () => {
		const {qmp, client} = await session();
		const name = qmp.execute('query-name');
		const uuid = qmp.execute('query-uuid');
		const first = await client.expect('query-name');
		client.reply(await client.expect('query-uuid'), {UUID: 'u'});
		client.reply(first, {name: 'n'});
		await expect(Promise.all([name, uuid])).resolves.toEqual([{name: 'n'}, {UUID: 'u'}]);
	});

	test('that is not answered in time has an unknown outcome; the session goes on and drops the late reply', async () => {
		const {qmp, client} = await session();
		useFakeTimers();
		const reply = qmp.execute('job-cancel', {id: 'j'});
		const late = await client.expect('job-cancel');
		vi.advanceTimersByTime(10_000);
		await expect(reply).rejects.toBeInstanceOf(QmpTimeoutError);
		await expect(reply).rejects.toMatchObject({
			code: 'VM_LOST',
			message: 'QEMU did not answer job-cancel within 10 s',
		});

		client.refuse(late, 'late');
		const name = qmp.execute('query-name');
		client.reply(await client.expect('query-name'), {name: 'web'});
		await expect(name).resolves.toEqual({name: 'web'});
		expect(vi.getTimerCount()).toBe(0);
	});

	test('that waits for storage has longer', async () => {
		const {qmp, client} = await session();
		useFakeTimers();
		const reply = qmp.execute('blockdev-del', {'node-name': 'n'});
		const command = await client.expect('blockdev-del');
		vi.advanceTimersByTime(59_999);
		client.reply(command);
		await expect(reply).resolves.toEqual({});
	});

	test('is sent at once while fewer than seven are unanswered, and else waits', async () => {
		const {qmp, client} = await session();
		const ids = Array.from({length: 10}, (_, index) => `job-${index}`);
		const replies = ids.map(id => qmp.execute('job-cancel', {id}));
		const outOfBand = qmp.executeOutOfBand('yank', yank);

		const sent = [];
		for (let count = 0; count < 7; count++) sent.push(await client.expect('job-cancel'));
		// The stream is in order, so that the eighth was not sent before this.
		client.reply(await client.expect('yank'));
		await outOfBand;
		for (let count = 7; count < 10; count++) {
			const emitted = firstValueFrom(qmp.on('SHUTDOWN'));
			client.emit('SHUTDOWN', {guest: false, reason: 'host-signal'});
			await emitted;
			client.reply(sent[count - 7]!);
			sent.push(await client.expect('job-cancel'));
		}
		for (const command of sent.slice(3)) client.reply(command);
		await Promise.all(replies);
		expect(sent.map(command => command.arguments)).toEqual(ids.map(id => ({id})));
	});

	test('that gave up while it waited is never sent, and those it waited for still count', async () => {
		const {qmp, client} = await session();
		useFakeTimers();
		const unanswered = Array.from({length: 7}, () => qmp.execute('transaction', {actions: []}));
		const waiting = qmp.execute('job-cancel', {id: 'never sent'});
		const sent = [];
		for (let count = 0; count < 7; count++) sent.push(await client.expect('transaction'));
		vi.advanceTimersByTime(10_000);
		await expect(waiting).rejects.toBeInstanceOf(QmpTimeoutError);

		const next = qmp.execute('query-name');
		client.reply(sent[0]!);
		client.reply(await client.expect('query-name'), {name: 'web'});
		await expect(next).resolves.toEqual({name: 'web'});
		for (const command of sent) client.reply(command);
		await Promise.all(unanswered);
	});

	test('that timed out still fills its place in the queue of QEMU', async () => {
		const {qmp, client} = await session();
		useFakeTimers();
		const timedOut = Array.from({length: 7}, () => qmp.execute('query-jobs').catch((error: unknown) => error));
		const sent = [];
		for (let count = 0; count < 7; count++) sent.push(await client.expect('query-jobs'));
		vi.advanceTimersByTime(10_000);
		expect(await Promise.all(timedOut)).toEqual(Array(7).fill(expect.any(QmpTimeoutError)));

		const name = qmp.execute('query-name');
		const outOfBand = qmp.executeOutOfBand('yank', yank);
		client.reply(await client.expect('yank'));
		await outOfBand;
		client.reply(sent[0]!, []);
		client.reply(await client.expect('query-name'), {name: 'web'});
		await expect(name).resolves.toEqual({name: 'web'});
	});
});

describe('events', () => {
	test('come in order, with data where QEMU leaves it out', async () => {
		const {qmp, client} = await session();
		const events = lastValueFrom(qmp.events$.pipe(toArray())).catch((error: unknown) => error);
		const seen: unknown[] = [];
		qmp.events$.subscribe({
			next: ({event, data}) => seen.push([event, data]),
			error: () => undefined,
		});
		client.emit('JOB_STATUS_CHANGE', {id: 'j', status: 'created'});
		client.emit('RESUME');
		client.emit('JOB_STATUS_CHANGE', {id: 'j', status: 'running'});
		client.leave();
		expect(await events).toBeInstanceOf(QmpDisconnectedError);
		expect(seen).toEqual([
			['JOB_STATUS_CHANGE', {id: 'j', status: 'created'}],
			['RESUME', {}],
			['JOB_STATUS_CHANGE', {id: 'j', status: 'running'}],
		]);
	});

	test('that a command causes may come before its reply', async () => {
		const {qmp, client} = await session();
		const event = firstValueFrom(qmp.on('JOB_STATUS_CHANGE'));
		const reply = qmp.execute('job-cancel', {id: 'j'});
		const command = await client.expect('job-cancel');
		client.emit('BLOCK_JOB_ERROR', {device: 'j', operation: 'write', action: 'report'});
		client.emit('JOB_STATUS_CHANGE', {id: 'j', status: 'aborting'});
		expect((await event).data).toEqual({id: 'j', status: 'aborting'});
		client.reply(command);
		await reply;
	});

	test('in a flood do not cost a reply', async () => {
		const {qmp, client} = await session();
		let count = 0;
		qmp.on('JOB_STATUS_CHANGE').subscribe({next: () => count++, error: () => undefined});
		const reply = qmp.execute('query-name');
		const command = await client.expect('query-name');
		const event =
			'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "JOB_STATUS_CHANGE", "data": {"id": "j", "status": "ready"}}\r\n';
		client.send(event.repeat(50_000));
		client.reply(command, {name: 'web'});
		await expect(reply).resolves.toEqual({name: 'web'});
		expect(count).toBe(50_000);
	});
});

describe('a session that ends', () => {
	test('mid-command fails what was sent, what waited, and the events, also for those who come late', async () => {
		const {qmp, client} = await session();
		const pending = Array.from({length: 9}, () => qmp.execute('query-jobs').catch((error: unknown) => error));
		const events = lastValueFrom(qmp.events$).catch((error: unknown) => error);
		await client.expect('query-jobs');
		client.cut();

		const disconnected = expect.any(QmpDisconnectedError) as unknown;
		expect(await Promise.all(pending)).toEqual(Array(9).fill(disconnected));
		expect(await events).toEqual(disconnected);
		await expect(lastValueFrom(qmp.on('SHUTDOWN'))).rejects.toEqual(disconnected);
		await expect(qmp.execute('query-jobs')).rejects.toEqual(disconnected);
		expect(qmp.isClosed).toBe(true);
		await qmp.close();
	});

	test('leaves no timer behind', async () => {
		const {qmp, client} = await session();
		useFakeTimers();
		const reply = qmp.execute('query-jobs');
		await client.expect('query-jobs');
		client.cut();
		await expect(reply).rejects.toThrow(/monitor unix:.*qmp.sock closed: QEMU has ended or dropped the connection/);
		expect(vi.getTimerCount()).toBe(0);
	});

	test('at our wish says so, and the peer sees us leave', async () => {
		const {qmp, client} = await session();
		const reply = qmp.execute('query-jobs');
		reply.catch(() => undefined);
		await client.expect('query-jobs');
		expect(qmp.isClosed).toBe(false);
		await qmp.close();
		expect(qmp.isClosed).toBe(true);
		await expect(reply).rejects.toThrow(/was closed by us/);
		await client.expectToLeave();
		await qmp.close();
	});

	test.each([
		[
			'an error without an id',
			'{"error": {"class": "GenericError", "desc": "JSON parse error"}}',
			/could not read a command/,
		],
		['garbage', 'Segmentation fault\n', /not JSON objects/],
		['an error of text', '{"error": "no", "id": "ID"}', /an error is not an object/],
		['an error without a text', '{"error": {"class": "GenericError"}, "id": "ID"}', /no class or description/],
		['an error that is null', '{"error": null, "id": "ID"}', /an error is not an object/],
		['a reply with nothing in it', '{"id": "ID"}', /neither a greeting, an event nor a reply/],
		['an event with data of text', '{"event": "SHUTDOWN", "data": "now"}', /event's data is not an object/],
		['endless nesting', `{"return": ${'['.repeat(2_000)}`, /nested deeper/],
	])('because of %s fails what is pending', async (_what, sent, message) => {
		const {qmp, client} = await session();
		const reply = qmp.execute('query-jobs');
		reply.catch(() => undefined);
		const {id} = await client.expect('query-jobs');
		client.send(sent.replace('ID', id));
		await expect(reply).rejects.toBeInstanceOf(QmpDisconnectedError);
		await expect(reply).rejects.toThrow(message);
		await client.expectToLeave();
	});
});

test.each([
	[
		'replies with ids unknown to us',
		'{"return": {}, "id": "qsc-0123456789ab-9"}{"error": {"class": "c", "desc": "d"}, "id": "x"}',
	],
	[
		'replies with ids of other types',
		'{"return": 1, "id": 7}{"return": {}, "id": {"a": []}}{"return": [], "id": null}{"return": {}}',
	],
	['a second greeting', '{"QMP": {"version": {"qemu": {"major": 1, "minor": 1, "micro": 1}}, "capabilities": []}}'],
	['events unknown to us', '{"event": "__proto__"}{"event": "NEW_IN_13", "data": {"__proto__": 1, "toString": 2}}'],
])('a session is not disturbed by %s', async (_what, sent) => {
	const {qmp, client} = await session();
	const reply = qmp.execute('query-name');
	const command = await client.expect('query-name');
	client.send(sent);
	client.reply(command, {name: 'web'});
	await expect(reply).resolves.toEqual({name: 'web'});
	expect(qmp.version.qemu.major).toBe(11);
});

test('a session never crashes nor hangs, whatever arrives', async () => {
	const qemu = await FakeQemu.listen();
	const wire = fc.array(
		fc.oneof(
			fc.uint8Array({maxLength: 20}),
			jsonBits,
			fc
				.constantFrom('"id":"ID"', '"return":', '"error":', '"event":', '"class":""', '"desc":', '"data":')
				.map(text => Buffer.from(text)),
			fc.constant(Buffer.from('{"return":{},"id":"ID"}')),
		),
		{maxLength: 12},
	);
	await fc.assert(
		fc.asyncProperty(wire, async parts => {
			const {opening, client} = await arrive(qemu);
			await client.negotiate();
			const qmp = await opening;
			const reply = qmp.execute('query-name').catch((error: unknown) => error);
			const {id} = await client.expect('query-name');
			client.send(Buffer.from(Buffer.concat(parts).toString('latin1').replaceAll('ID', id), 'latin1'));
			client.leave();
			await expect(lastValueFrom(qmp.events$)).rejects.toBeInstanceOf(QmpDisconnectedError);
			expect(await reply).toSatisfy(
				(outcome: unknown) => outcome instanceof QuiesceError || JSON.stringify(outcome) === '{}',
			);
		}),
		{numRuns: 300},
	);
});
