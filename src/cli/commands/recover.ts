import {lastValueFrom, map, tap} from 'rxjs';
import type {Argv} from 'yargs';
import {recoverAll, type RecoveredOf} from '../../operations/recover-all.ts';
import {recover} from '../../operations/recover.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {type RepositoryOption, repositoryIfAny, repositoryOption} from '../repository-options.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printNote, printResult} from '../terminal.ts';
import {socketsOf, type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions, RepositoryOption {
	readonly scratch?: string;
	readonly folder?: string;
}

export function build(yargs: Argv): Argv {
	return repositoryOption(vmOptions(yargs))
		.usage(
			'$0 recover [VM]\n\nUndoes what runs left that were killed: resumes and thaws the guest, removes jobs, filters, ' +
				'nodes, exports, scratch and, with -r, unfinished points. Leaves runs alone that go on, and what is not ours. ' +
				'Without a VM: all VMs of this host. Every backup does it first for its VM.',
		)
		.option('scratch', {type: 'string', describe: 'Also look for scratch files in this folder', group: 'Recover:'})
		.option('folder', {
			type: 'string',
			describe: 'Also look for snapshots that are noted in this folder, as `snapshot create --folder` has it',
			group: 'Recover:',
		})
		.example('$0 recover', 'all VMs of this host')
		.example('$0 recover web1 -r /srv/backup', 'and the unfinished points of web1');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const repository = repositoryIfAny(options);
		const request = {...context, repository, scratch: options.scratch, snapshots: options.folder};
		let undone = 0;
		const print = (message: RecoveredOf): void => {
			undone++;
			if (context.json) printResult(toJson({messageType: message.kind, vm: message.vm, text: message.text}));
			else printResult(printable(message.vm === undefined ? message.text : `${message.vm}: ${message.text}`));
		};
		const isOne = options.vm !== undefined || options.qmp !== undefined;
		const recovered$ = isOne
			? recover({...request, sockets: await socketsOf(options)}).pipe(map(message => ({...message, vm: undefined})))
			: recoverAll(request);
		await lastValueFrom(recovered$.pipe(tap(print)), {defaultValue: undefined});
		if (context.json) printResult(toJson({messageType: 'summary', undone}));
		else if (undone === 0 && !context.quiet) printNote('nothing was left');
		return undefined;
	});
}
