/**
 * Copies two disks of a VM as they are at one instant, with the guest frozen:
 * node two-disk-transaction.ts /run/web1.qmp /run/web1.qga vda=/srv/vda.raw vdb=/srv/vdb.raw
 * The files have to exist, with the sizes of the disks.
 */
import {parseAddress, parseTransaction, transact} from 'quiesce';
import {lastValueFrom, tap} from 'rxjs';

const [monitor = '', agent = '', ...targets] = process.argv.slice(2);
const disks = targets.map(target => {
	const [disk = '', file = ''] = target.split('=');
	return {disk, file, node: `copy-${disk}`};
});
const plan = {
	prepare: disks.map(({file, node}) => ({
		'blockdev-add': {'driver': 'raw', 'node-name': node, 'file': {driver: 'file', filename: file}},
	})),
	actions: disks.map(({disk, node}) => ({
		type: 'blockdev-backup',
		data: {'job-id': node, 'device': `disk:${disk}`, 'target': node, 'sync': 'full'},
	})),
	after: disks.map(({node}) => ({'blockdev-del': {'node-name': node}})),
	cleanup: disks.map(({node}) => ({'blockdev-del': {'node-name': node}})),
};

const finished = await lastValueFrom(
	transact({
		sockets: {qmp: parseAddress(monitor), agent: parseAddress(agent)},
		plan: parseTransaction(JSON.stringify(plan), 'plan'),
		quiesce: 'require',
		freezeTimeoutMs: 60_000,
		signal: AbortSignal.timeout(600_000),
		tell: console.warn,
	}).pipe(
		tap(message => {
			if (message.kind === 'progress') console.log(message.disks);
		}),
	),
);
if (finished.kind === 'finished') console.log(`${finished.consistency}, at ${finished.at}`);
