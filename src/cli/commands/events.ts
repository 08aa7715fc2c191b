import {take} from 'rxjs';
import type {Argv} from 'yargs';
import {parseAddress} from '../../config/address.ts';
import type {Config} from '../../config/config-schema.ts';
import {CancelledError, UsageError} from '../../errors.ts';
import {discover} from '../../operations/discover.ts';
import {type EventMessage, watchEvents, type WatchedVm} from '../../operations/watch-events.ts';
import {rawJson} from '../json.ts';
import {printAll} from '../printer.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';
import {allSocketsOf} from '../vm-options.ts';

interface Options extends GlobalOptions {
	readonly vm?: readonly string[];
	readonly qmp?: readonly string[];
	readonly all: boolean;
	readonly config?: Config | undefined;
	readonly event?: readonly string[];
	readonly whenLost: 'retry' | 'end';
	readonly count?: number;
}

export function build(yargs: Argv): Argv {
	return yargs
		.usage(
			'$0 events VM…\n$0 events --all\n\nPrints the events of VMs as lines of JSON, as they come, until a signal comes. Takes a monitor of ' +
				'each VM for itself; connects again to one that is lost, and says for how long nothing was heard.',
		)
		.positional('vm', {type: 'string', array: true, describe: 'VMs of this host, or NAME=QMP'})
		.option('qmp', {
			type: 'string',
			array: true,
			nargs: 1,
			describe: 'A monitor, instead of VM: unix:/path or tcp:host:port (may be repeated)',
			group: 'VM:',
		})
		.option('all', {type: 'boolean', default: false, describe: 'All VMs that run on this host now', group: 'VM:'})
		.option('event', {
			type: 'string',
			array: true,
			nargs: 1,
			describe: 'Only events of this name, such as STOP or "BLOCK_*" (may be repeated)',
			group: 'Events:',
		})
		.option('when-lost', {
			choices: ['retry', 'end'] as const,
			default: 'retry',
			describe: 'What to do when a monitor is lost: connect again for ever, or be done with that VM',
			group: 'Events:',
		})
		.option('count', {type: 'number', nargs: 1, describe: 'End after so many lines', group: 'Events:'})
		.example('$0 events web1 db1', '')
		.example('$0 events --all --event "BLOCK_*" --event JOB_STATUS_CHANGE', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {event, whenLost, count} = options;
		if (count !== undefined && !(Number.isSafeInteger(count) && count > 0)) {
			throw new UsageError('--count is a whole number, from 1 up');
		}
		const vms = await vmsOf(options);
		context.endsWith('no longer listening');
		const messages$ = watchEvents({...context, vms, only: event, whenLost});
		try {
			const limited$ = count === undefined ? messages$ : messages$.pipe(take(count));
			await printAll(limited$, {print, end: () => undefined});
		} catch (error) {
			// A signal is how it ends.
			if (!(error instanceof CancelledError)) throw error;
		}
		return undefined;
	});
}

/** Data has the names that QEMU gives it. */
function print({kind, ...rest}: EventMessage): void {
	printResult(rawJson({message_type: kind, ...rest}));
}

async function vmsOf({vm: names = [], qmp = [], all, config}: Options): Promise<WatchedVm[]> {
	if (all && names.length + qmp.length > 0) throw new UsageError('give either --all, or VMs');
	if (all) {
		const vms = (await discover()).flatMap(({name, uuid, pid, monitors: [first, ...others]}) =>
			first ? [{name: name ?? uuid ?? String(pid), monitors: [first, ...others]} as const] : [],
		);
		if (vms.length === 0) throw new UsageError('no VM with a monitor runs on this host');
		return vms;
	}
	const named = await Promise.all(names.map(name => vmOf(name, config)));
	const vms = [...named, ...qmp.map(text => ({name: text, monitors: [parseAddress(text)]}) as const)];
	if (vms.length === 0) throw new UsageError('no VM is named', {hint: 'Name some, or --all of this host.'});
	return vms;
}

async function vmOf(text: string, config: Config | undefined): Promise<WatchedVm> {
	const [, name, address] = /^([^=]+)=((?:unix:|tcp:|\.{0,2}\/).+)$/.exec(text) ?? [];
	if (name !== undefined && address !== undefined) return {name, monitors: [parseAddress(address)]};
	const [first, ...others] = await allSocketsOf({vm: text, config});
	return {name: text, monitors: [first.qmp, ...others.map(({qmp}) => qmp)]};
}
