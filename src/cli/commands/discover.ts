import type {Argv} from 'yargs';
import {formatAddress} from '../../config/address.ts';
import {discover, type DiscoveredVm} from '../../operations/discover.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printNote, printResult} from '../terminal.ts';

export function build(yargs: Argv): Argv {
	return yargs
		.usage(
			'$0 discover\n\nLists the running QEMUs of this host, from /proc and the well-known folders, with the sockets of ' +
				'their monitors and guest agents. Connects to none of them. Run it as root to see those of all users.',
		)
		.example('$0 discover --json', '');
}

export function run(options: GlobalOptions): Promise<void> {
	return runCommand(options, async ({json}) => {
		const vms = await discover();
		if (json) printResult(toJson(vms.map(withTextAddresses)));
		else if (vms.length === 0) printNote('no running QEMU was found on this host');
		else printResult(vms.map(describe).join('\n'));
		return undefined;
	});
}

function withTextAddresses(vm: DiscoveredVm): object {
	return {...vm, monitors: vm.monitors.map(formatAddress), agent: vm.agent ? formatAddress(vm.agent) : undefined};
}

function describe({name, uuid, pid, user, uid, state, monitors, agent, problems}: DiscoveredVm): string {
	const title = printable(name ?? uuid ?? 'without a name');
	const who = [pid === undefined ? state : `process ${pid}`, user ?? (uid === undefined ? undefined : `user ${uid}`)];
	const lines = [
		`${title}  (${who.filter(part => part !== undefined).join(', ')})`,
		...monitors.map(address => `  monitor  ${printable(formatAddress(address))}`),
		...(agent ? [`  agent    ${printable(formatAddress(agent))}`] : []),
		...problems.map(problem => `  note     ${printable(problem)}`),
	];
	return lines.map(line => `${line}\n`).join('');
}
