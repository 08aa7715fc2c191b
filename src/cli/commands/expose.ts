import type {Argv} from 'yargs';
import {parseAddress} from '../../config/address.ts';
import type {ExposeRequest} from '../../operations/expose/expose-messages.ts';
import {expose} from '../../operations/expose/expose.ts';
import {commandOf} from '../../operations/freeze.ts';
import {parseMaxStall} from '../copy-options.ts';
import {type CutOptions, cutOptions, quiesceWishes} from '../cut-options.ts';
import {exposePrinter} from '../expose-printer.ts';
import {printAll} from '../printer.ts';
import {parseDuration} from '../quantities.ts';
import {repositoryOf, repositoryOption, type RepositoryOption} from '../repository-options.ts';
import {type CommandContext, type GlobalOptions, runCommand} from '../run-command.ts';
import {TLS_OPTIONS, tlsOf, type TlsOptions, tlsOptions} from '../tls-options.ts';
import {socketsOf, type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions, RepositoryOption, TlsOptions, CutOptions {
	readonly 'listen'?: string;
	readonly 'since'?: string;
	readonly 'commit'?: string;
	readonly 'scratch'?: string;
	readonly 'maxStall': string;
	readonly 'deadline': string;
	readonly '--'?: readonly string[];
}

export function build(yargs: Argv): Argv {
	return cutOptions(tlsOptions(repositoryOption(vmOptions(yargs))))
		.usage(
			'$0 expose [VM] [-- COMMAND…]\n\nShows what the disks of a VM hold at one instant, read-only over NBD, while the guest goes on. With a ' +
				"COMMAND, runs it meanwhile and exits with the COMMAND's own status; without one, waits for Ctrl-C or SIGTERM.",
		)
		.option('listen', {
			type: 'string',
			describe: 'unix:/path or tcp:host:port; default a Unix socket that only this user can open',
		})
		.option('since', {
			type: 'string',
			describe: 'Show too what has changed since this point of the repository, or since what --commit has named',
		})
		.option('commit', {
			type: 'string',
			describe:
				'If the COMMAND succeeds, let the next exposure show what has changed since this one: the NAME for its --since',
		})
		.option('scratch', {
			type: 'string',
			describe: 'Where old data is kept that the guest overwrites, instead of beside the images: a local folder',
		})
		.option('max-stall', {
			type: 'string',
			default: '2s',
			describe: 'How long a write of the guest may be held up, after which the exposure fails: 1s to 4s',
		})
		.option('deadline', {type: 'string', default: '1h', describe: 'The longest time the disks may be exposed'})
		.group(
			[
				...['listen', ...TLS_OPTIONS, 'since', 'commit', 'quiesce', 'disk', 'exclude', 'scratch', 'max-stall'],
				...['freeze-timeout', 'deadline'],
			],
			'Expose:',
		)
		.example('$0 expose web1 -- sh -c \'nbdcopy "$QUIESCE_URI_vda" vda.raw\'', '')
		.example('$0 expose web1 --since 2026-11-21T08-00-00Z -r /srv/backup --json', 'with what has changed');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const request = await requestOf(options, context);
		if (!request.command)
			context.endsWith('exposed no longer: taking everything out of the VM (once more to stop at once)');
		const last = await printAll(expose(request), exposePrinter(context, request.command !== undefined));
		return last?.kind === 'finished' ? (last.exitStatus ?? undefined) : undefined;
	});
}

async function requestOf(options: Options, context: CommandContext): Promise<ExposeRequest> {
	const listen = options.listen === undefined ? undefined : parseAddress(options.listen);
	const command = options['--'];
	return {
		...context,
		listen,
		tls: await tlsOf(options),
		sockets: await socketsOf(options),
		since: options.since,
		commit: options.commit,
		repository: options.since === undefined && options.commit === undefined ? undefined : repositoryOf(options),
		...quiesceWishes(options),
		only: options.disk,
		exclude: options.exclude,
		scratch: options.scratch,
		maxStallSeconds: parseMaxStall(options.maxStall),
		deadlineMs: parseDuration(options.deadline, '--deadline'),
		command: command === undefined ? undefined : commandOf(command),
		commandOutput: context.json ? 'stderr' : 'stdout',
	};
}
