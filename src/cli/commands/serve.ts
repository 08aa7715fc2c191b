import {once} from 'node:events';
import type {Argv} from 'yargs';
import {parseAddress, type SocketAddress} from '../../config/address.ts';
import {UsageError} from '../../errors.ts';
import {commandOf, runCommand as runProgram} from '../../operations/freeze.ts';
import {exportsEnvironment} from '../../operations/exports-environment.ts';
import {serve, type ServeRequest, type Serving} from '../../operations/serve/serve.ts';
import {archiveNamed} from '../archive/archive-name.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {openProgressView} from '../progress-lines.ts';
import {parsePointName, type RepositoryOption, repositoryOf, repositoryOption} from '../repository-options.ts';
import {type CommandContext, type GlobalOptions, runCommand} from '../run-command.ts';
import {printNote, printResult} from '../terminal.ts';
import {type TlsOptions, tlsOf, tlsOptions} from '../tls-options.ts';

interface Options extends GlobalOptions, RepositoryOption, TlsOptions {
	readonly 'source': string;
	readonly 'index'?: string;
	readonly 'disk'?: readonly string[];
	readonly 'listen'?: string;
	readonly 'writableOverlay': boolean;
	readonly 'scratch'?: string;
	readonly '--'?: readonly string[];
}

export function build(yargs: Argv): Argv {
	return tlsOptions(repositoryOption(yargs))
		.usage(
			'$0 serve VM[@POINT] -r FOLDER [-- COMMAND…]\n$0 serve FILE.vma [-- COMMAND…]\n\nServes the disks of a point or of an archive over NBD, ' +
				'read-only, and prints their URIs. With a COMMAND, until that ends, and exits with its status; else until a signal comes.',
		)
		.positional('source', {type: 'string', demandOption: true, describe: 'VM or VM@POINT; or an archive'})
		.option('listen', {
			type: 'string',
			describe: 'Where: /path of a Unix socket, or tcp:HOST:PORT with TLS; else a socket in a folder of its own',
		})
		.option('disk', {type: 'string', array: true, nargs: 1, describe: 'Only this disk (may be repeated)'})
		.option('index', {type: 'string', describe: 'Of an archive, where it does not lie beside it'})
		.option('writable-overlay', {
			type: 'boolean',
			default: false,
			describe: 'Let clients write, to images that are thrown away at the end',
		})
		.option('scratch', {type: 'string', describe: 'The folder for these images, instead of that for temporary files'})
		.group(['listen', 'disk', 'index', 'writable-overlay', 'scratch', 'repository'], 'Serve:')
		.example('$0 serve web1 -r /srv/backup -- sh -c \'nbdcopy "$QUIESCE_URI_vda" vda.raw\'', '')
		.example('$0 serve web1 -r /srv/backup --writable-overlay --listen /run/web1.nbd', 'boot from the newest point');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const command = options['--'] && commandOf(options['--']);
		const request = await requestOf(options);
		const view = openProgressView(context.quiet || context.json);
		const onProgress = (doneBytes: number, totalBytes: number): void => {
			view.show([{name: 'checking', doneBytes, totalBytes}]);
		};
		const report = ({message}: Error): void => {
			context.log.warn(message);
		};
		await using serving = await serve({...request, signal: context.signal, onProgress, report}).finally(() => {
			view.end();
		});
		printServed(serving, context, command !== undefined);
		if (!command) {
			context.endsWith('serving no longer');
			await Promise.race([ended(context.signal), serving.died]);
			return undefined;
		}
		const broken = new AbortController();
		serving.died.catch((error: unknown) => {
			broken.abort(error);
		});
		return await runProgram(
			{
				signal: AbortSignal.any([context.signal, broken.signal]),
				commandOutput: context.json ? 'stderr' : 'stdout',
				environment: exportsEnvironment(serving.disks),
			},
			command,
		);
	});
}

type Wishes = Omit<ServeRequest, 'signal' | 'onProgress' | 'report'>;

async function requestOf(options: Options): Promise<Wishes> {
	const {source, index, disk: only, listen, writableOverlay, scratch} = options;
	const archive = archiveNamed(source, index);
	if (archive?.kind === 'stream') throw new UsageError('a stream cannot be served, as it is read once');
	const address = listen === undefined ? undefined : addressOf(listen);
	const named = await tlsOf(options);
	return {
		source: archive
			? {kind: 'archive', path: archive.path, index, only}
			: {kind: 'point', ...parsePointName(source), repository: repositoryOf(options), only},
		...{address, tls: named?.server},
		...{writableOverlay, scratch},
	};
}

function addressOf(text: string): SocketAddress {
	try {
		return parseAddress(text);
	} catch (cause) {
		throw new UsageError(`--listen: '${text}' is neither /path nor tcp:HOST:PORT`, {cause});
	}
}

function printServed({disks, writable}: Serving, {json, quiet}: CommandContext, hasCommand: boolean): void {
	if (json) {
		printResult(toJson({messageType: 'serving', disks, writable}));
		return;
	}
	// What the command prints is the result then.
	for (const {disk, uri} of disks) {
		if (!hasCommand) printResult(uri);
		else if (!quiet) printNote(`${printable(disk)}: ${uri}`);
	}
	if (!hasCommand && !quiet) printNote(`serving ${writable ? 'writable overlays' : 'read-only'}, until Ctrl-C`);
}

async function ended(signal: AbortSignal): Promise<void> {
	if (!signal.aborted) await once(signal, 'abort');
}
