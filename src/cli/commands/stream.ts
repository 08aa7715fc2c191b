import type {Argv} from 'yargs';
import {stream} from '../../operations/stream.ts';
import {chainOptions, type ChainOptions, paceOf} from '../chain-options.ts';
import {mergePrinter} from '../merge-printer.ts';
import {printAll} from '../printer.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {type OffOptions, offOptions, vmOf} from '../off-options.ts';
import {type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions, ChainOptions, OffOptions {
	readonly base?: string;
	readonly delete: boolean;
	readonly dryRun: boolean;
}

export function build(yargs: Argv): Argv {
	return offOptions(chainOptions(vmOptions(yargs), 'Stream:'))
		.usage(
			'$0 stream [VM]\n\nPulls what the disks of a VM lie on up into their active layers, while the guest goes on, if it runs, ' +
				'so that they lie on nothing else, or on --base alone. What they lay on is not changed, and left where it is. ' +
				'Cancelled before the end, each disk lies on what it lay on.',
		)
		.option('base', {type: 'string', describe: 'The layer that stays beneath, a FILE or a node', group: 'Stream:'})
		.option('delete', {
			type: 'boolean',
			default: false,
			describe: 'Remove the files that the disk lies on no more and nothing else uses',
			group: 'Stream:',
		})
		.option('dry-run', {
			type: 'boolean',
			default: false,
			describe: 'Say how much would be moved, and change nothing',
			group: 'Stream:',
		})
		.example('$0 stream web1', 'each disk becomes one image')
		.example('$0 stream web1 --disk vda --base /vm/golden.qcow2', 'all but the golden image');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {disk, base, delete: remove, dryRun} = options;
		const request = {
			...context,
			...paceOf(options),
			sockets: await vmOf(options),
			disks: disk,
			base,
			dryRun,
		};
		const printer = mergePrinter({...context, dryRun});
		await printAll(stream({...request, delete: remove}), printer);
		return undefined;
	});
}
