import fs from 'node:fs/promises';
import path from 'node:path';
import type {Observable} from 'rxjs';
import type {Argv} from 'yargs';
import {UsageError} from '../../errors.ts';
import type {ArchiveTarget} from '../../operations/archive/archive-output.ts';
import type {ArchiveWishes, ExportMessage, ExportVmRequest} from '../../operations/archive/export-messages.ts';
import {exportPoint, type ExportPointRequest, type PointFormat} from '../../operations/archive/export-point.ts';
import {exportVm} from '../../operations/archive/export-vm.ts';
import {vzdumpName, vzdumpNotes} from '../../operations/archive/vzdump-name.ts';
import {fileError, replaceDurably} from '../../repository/durable-files.ts';
import {programVersion} from '../../version.ts';
import {type CopyOptions, copyWishes} from '../copy-options.ts';
import {type CutOptions, cutOptions, quiesceWishes} from '../cut-options.ts';
import {exportPrinter} from '../export-printer.ts';
import {type OffOptions, offOptions, vmOf} from '../off-options.ts';
import {printAll} from '../printer.ts';
import {parsePointName, repositoryOf} from '../repository-options.ts';
import {type CommandContext, type GlobalOptions, runCommand} from '../run-command.ts';
import {type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions, OffOptions, CutOptions, CopyOptions {
	readonly output: string;
	readonly compress?: ExportVmRequest['compression'];
	readonly proxmoxConfig?: string;
	readonly vmid?: string;
	readonly method?: ExportVmRequest['method'];
	readonly scratch?: string;
	readonly dryRun: boolean;
	readonly format: PointFormat;
}

export function build(yargs: Argv): Argv {
	return cutOptions(offOptions(vmOptions(yargs)))
		.usage(
			'$0 export [VM] --output FILE\n$0 export VM@POINT --output FILE -r FOLDER\n\nWrites what the disks of a VM hold at one instant to one file, an archive in the format of Proxmox (VMA), ' +
				'while the guest goes on. Nothing is copied anywhere else on the way. Or writes a point of a repository, for which no VM is needed.',
		)
		.option('format', {
			choices: ['vma', 'tar', 'raw', 'qcow2'] as const,
			default: 'vma',
			describe: 'Of a point: also a tar of raw files, or an image of one disk',
		})
		.option('output', {
			alias: 'o',
			type: 'string',
			demandOption: true,
			describe: 'The file, which must not exist; or - for stdout',
		})
		.option('compress', {
			choices: ['zstd', 'none'] as const,
			describe: 'Default zstd where the name ends with .zst, and else none',
		})
		.option('proxmox-config', {
			type: 'string',
			describe: 'A qemu-server.conf to put in, instead of one made of what is known',
		})
		.option('vmid', {
			type: 'string',
			nargs: 1,
			describe: 'With a folder as --output: call the file as vzdump of Proxmox does for this number, and write notes',
		})
		.option('method', {
			choices: ['fleece', 'push'] as const,
			describe:
				'How the disks are read; default fleece, which never lets the guest wait for the archive, where the VM can',
		})
		.option('scratch', {
			type: 'string',
			describe: 'Where fleece keeps old data while it copies, instead of beside the images: a local folder',
		})
		.option('max-stall', {
			type: 'string',
			default: '2s',
			describe: 'How long fleece may hold up a write of the guest, after which the export fails: 1s to 4s',
		})
		.option('target-timeout', {
			type: 'string',
			describe: 'Fail when the archive takes nothing for so long; default 10s for push, 5m for fleece',
		})
		.option('speed', {type: 'string', describe: 'At most so many bytes a second for each disk, such as 50M'})
		.option('dry-run', {type: 'boolean', default: false, describe: 'Say what would be done, and do nothing'})
		.group(
			[
				...[
					'output',
					'compress',
					'proxmox-config',
					'vmid',
					'quiesce',
					'disk',
					'exclude',
					'method',
					'scratch',
					'max-stall',
				],
				...['target-timeout', 'speed', 'freeze-timeout', 'dry-run', 'format', 'repository'],
			],
			'Export:',
		)
		.example('$0 export web1 -o /var/lib/vz/dump --vmid 101', 'what Proxmox lists, and qmrestore takes')
		.example('$0 export web1@2026-11-21 -r /srv/backup --format tar -o web1.tar', 'a point that was taken')
		.example('$0 export web1 -o - | ssh backup "cat > web1.vma"', '');
}

export function run(typed: Options): Promise<void> {
	return runCommand(typed, async context => {
		const options = withVzdumpName(typed);
		const point = pointNamed(options);
		if (point) {
			const request = await pointRequestOf(options, point, context);
			await write(exportPoint(request), options, context);
			return undefined;
		}
		if (options.format !== 'vma')
			throw new UsageError(`--format ${options.format} is for a point: export VM@POINT -r FOLDER`);
		const request = await requestOf(options, context);
		await write(exportVm(request), options, context);
		return undefined;
	});
}

/** With the name of a file in place of the folder's, and the compression that it has. */
function withVzdumpName(options: Options): Options {
	const {vmid, output, format, compress = 'zstd'} = options;
	if (vmid === undefined) return options;
	if (!/^[1-9]\d{2,8}$/.test(vmid)) {
		throw new UsageError(`--vmid: '${vmid}' is not a number of Proxmox`, {hint: 'They are from 100 to 999999999.'});
	}
	if (output === '-' || format !== 'vma') throw new UsageError('--vmid is for a VMA archive in a folder');
	return {...options, compress, output: path.join(output, vzdumpName(Number(vmid), new Date(), compress))};
}

async function write(
	messages$: Observable<ExportMessage>,
	{output, vmid, dryRun}: Options,
	context: CommandContext,
): Promise<void> {
	const last = await printAll(messages$, exportPrinter(context, output));
	if (vmid === undefined || dryRun || last?.kind !== 'finished') return;
	const notes = vzdumpNotes(output);
	try {
		await replaceDurably(notes, `${last.vm}, ${last.consistency}, ${last.cutAt}, by quiesce ${programVersion()}\n`);
	} catch (error) {
		throw fileError('write', notes, error);
	}
}

/** A point is named by its `@`, or by a repository: a VM that runs is in none. */
function pointNamed({vm, repository}: Options): {readonly vm: string; readonly point: string | undefined} | undefined {
	if (vm === undefined || (!vm.includes('@') && repository === undefined)) return undefined;
	return parsePointName(vm);
}

async function pointRequestOf(
	options: Options,
	point: {readonly vm: string; readonly point: string | undefined},
	context: CommandContext,
): Promise<ExportPointRequest> {
	const {format, disk: only} = options;
	const live = (['qmp', 'agent', 'image', 'exclude', 'method', 'scratch', 'targetTimeout', 'speed'] as const).find(
		name => options[name] !== undefined,
	);
	if (live !== undefined || options.off || options.dryRun) {
		throw new UsageError('a point is exported as it is: options for a VM are not for it', {
			hint: 'A point takes --output, --format, --compress, --disk, --proxmox-config and --repository.',
		});
	}
	return {
		...{...point, repository: repositoryOf(options), format, only, signal: context.signal},
		...(await wishesOf(options, context)),
	};
}

async function requestOf(options: Options, context: CommandContext): Promise<ExportVmRequest> {
	return {
		...context,
		sockets: await vmOf(options),
		...(await wishesOf(options, context)),
		...quiesceWishes(options),
		...copyWishes(options),
		only: options.disk,
		exclude: options.exclude,
		method: options.method,
		scratch: options.scratch,
		dryRun: options.dryRun,
	};
}

async function wishesOf(
	{output, compress, proxmoxConfig}: Options,
	{json}: Pick<CommandContext, 'json'>,
): Promise<ArchiveWishes> {
	if (output === '-' && json) {
		throw new UsageError('--json and the archive would both go to stdout', {hint: 'Name a file with --output.'});
	}
	return {
		target: targetOf(output),
		compression: compress ?? (output.endsWith('.zst') ? 'zstd' : 'none'),
		config: proxmoxConfig === undefined ? undefined : await readConfig(proxmoxConfig),
	};
}

function targetOf(output: string): ArchiveTarget {
	if (output !== '-') return {kind: 'file', path: path.resolve(output)};
	if (process.stdout.isTTY) {
		throw new UsageError('an archive is nothing for a terminal', {hint: 'Name a file, or pipe it to another program.'});
	}
	return {kind: 'stream', stream: process.stdout};
}

async function readConfig(file: string): Promise<string> {
	try {
		return await fs.readFile(file, 'utf8');
	} catch (cause) {
		throw new UsageError(`--proxmox-config: ${file} cannot be read`, {cause});
	}
}
