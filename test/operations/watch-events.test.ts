import {connectable, filter, firstValueFrom, type Observable, ReplaySubject, take, toArray} from 'rxjs';
import {expect, onTestFinished, test} from 'vitest';
import {type EventMessage, watchEvents, type WatchEventsRequest} from '../../src/operations/watch-events.ts';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {FakeQemu} from '../support/fake-qemu.ts';
import {startQemu} from '../support/real-qemu.ts';

/** Begins at once, and keeps what comes; ends with the test. */
function watch(request: Pick<WatchEventsRequest, 'vms'> & Partial<WatchEventsRequest>): Observable<EventMessage> {
	const abort = new AbortController();
	const messages$ = watchEvents({
		...{whenLost: 'retry', signal: abort.signal},
		tell: text => expect.unreachable(text),
		...request,
	});
	const kept$ = connectable(messages$, {
		connector: () => new ReplaySubject<EventMessage>(Infinity),
		resetOnDisconnect: false,
	});
	kept$.subscribe({error: () => undefined});
	kept$.connect();
	onTestFinished(() => {
		abort.abort();
	});
	return kept$;
}

function collect(messages$: Observable<EventMessage>, count: number): Promise<EventMessage[]> {
	return firstValueFrom(messages$.pipe(take(count), toArray()));
}

function ofKind(messages$: Observable<EventMessage>, kind: EventMessage['kind']): Observable<EventMessage> {
	return messages$.pipe(filter(message => message.kind === kind));
}

test('the events of several VMs are one stream, in which those of each are in their order', async () => {
	const qemus = await Promise.all(
		['a', 'b', 'c'].map(async name => ({name, qemu: await startQemu('-machine', 'q35', '-S')})),
	);
	const vms = qemus.map(({name, qemu}) => ({name, monitors: [{unix: qemu.qmpPath}] as const}));
	const messages$ = watch({vms, only: ['ST*P', 'RESUME']});
	await collect(ofKind(messages$, 'connected'), 3);
	for (const {qemu} of qemus) {
		const qmp = await QmpConnection.open({unix: qemu.secondQmpPath});
		for (let turn = 0; turn < 5; turn++) {
			await qmp.execute('cont');
			await qmp.execute('stop');
		}
		await qmp.execute('blockdev-add', {'driver': 'null-co', 'node-name': 'n'});
		await qmp.close();
	}
	const events = await collect(ofKind(messages$, 'event'), 30);
	for (const {name} of vms) {
		const own = events.filter(({vm}) => vm === name).map(message => ('event' in message ? message.event : ''));
		expect(own).toEqual(Array.from({length: 10}, (_, index) => (index % 2 === 0 ? 'RESUME' : 'STOP')));
	}
});

test('a monitor that is lost is connected to again, and for how long nothing was heard is said', async () => {
	const qemu = await FakeQemu.listen();
	const messages$ = watch({vms: [{name: 'a', monitors: [qemu.address]}]});
	const first = await qemu.accept();
	await first.negotiate();
	first.emit('STOP');
	await collect(ofKind(messages$, 'event'), 1);
	first.leave();
	// Not even a greeting, and then one again.
	(await qemu.accept()).leave();
	const again = await qemu.accept();
	await again.negotiate();
	again.emit('RESUME', {a: 1});
	const [connected, stop, lost, gap, resume] = await collect(messages$, 5);
	expect(connected).toMatchObject({kind: 'connected', vm: 'a'});
	expect(stop).toEqual({kind: 'event', vm: 'a', event: 'STOP', data: {}, at: '2027-01-15T08:00:00.000Z'});
	expect(lost).toMatchObject({kind: 'lost', vm: 'a', why: expect.stringContaining('QEMU has ended') as string});
	expect(gap).toMatchObject({kind: 'gap', from: lost && 'at' in lost ? lost.at : ''});
	expect(resume).toMatchObject({kind: 'event', event: 'RESUME', data: {a: 1}});
});

test('what comes together with the last answer of the negotiation is heard too', async () => {
	const qemu = await FakeQemu.listen();
	const messages$ = watch({vms: [{name: 'a', monitors: [qemu.address]}]});
	const client = await qemu.accept();
	client.greet();
	const {id} = await client.expect('qmp_capabilities');
	const event = {timestamp: {seconds: 1, microseconds: 0}, event: 'STOP'};
	client.send(`${JSON.stringify({return: {}, id})}\n${JSON.stringify(event)}\n`);
	expect(await collect(messages$, 2)).toMatchObject([{kind: 'connected'}, {kind: 'event', event: 'STOP'}]);
});

test('without connecting again it is over once all are lost, and fails where one is not there', async () => {
	const qemus = await Promise.all([startQemu(), startQemu()]);
	const vms = qemus.map(({qmpPath}) => ({name: qmpPath, monitors: [{unix: qmpPath}] as const}));
	const messages$ = watch({vms, whenLost: 'end', only: ['NOTHING']});
	await collect(ofKind(messages$, 'connected'), 2);
	for (const {kill} of qemus) await kill();
	expect((await firstValueFrom(messages$.pipe(toArray()))).map(({kind}) => kind)).toEqual([
		...['connected', 'connected', 'lost', 'lost'],
	]);
	const missing$ = watch({vms: [{name: 'a', monitors: [{unix: '/nowhere/a.qmp'}]}], whenLost: 'end'});
	await expect(firstValueFrom(missing$)).rejects.toThrow('/nowhere/a.qmp');
});

test('a signal ends it at once, also while it waits to connect again', async () => {
	for (const unix of ['/nowhere/a.qmp', (await startQemu()).qmpPath]) {
		const abort = new AbortController();
		const messages$ = watch({vms: [{name: 'a', monitors: [{unix}]}], signal: abort.signal});
		await collect(messages$, 1);
		abort.abort(new Error('enough'));
		await expect(firstValueFrom(messages$.pipe(toArray()))).rejects.toThrow('enough');
	}
});
