import type {Argv} from 'yargs';
import {commit} from '../../operations/commit.ts';
import {chainOptions, type ChainOptions, paceOf} from '../chain-options.ts';
import {mergePrinter} from '../merge-printer.ts';
import {printAll} from '../printer.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {type OffOptions, offOptions, vmOf} from '../off-options.ts';
import {type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions, ChainOptions, OffOptions {
	readonly top?: string;
	readonly base?: string;
	readonly keep: boolean;
	readonly dryRun: boolean;
}

export function build(yargs: Argv): Argv {
	return offOptions(chainOptions(vmOptions(yargs), 'Commit:'))
		.usage(
			'$0 commit [VM]\n\nMerges overlays of the disks of a VM down into what they lie on, while the guest goes on, if it runs: ' +
				'by default the active layer of every disk into the one beneath it. The disk then lies on that, and the overlay is ' +
				'removed once nothing uses it. Cancelled before the end, each disk stays on what it lies on.',
		)
		.option('top', {type: 'string', describe: 'Merge from this layer down, a FILE or a node', group: 'Commit:'})
		.option('base', {type: 'string', describe: 'Merge into this layer, instead of the next', group: 'Commit:'})
		.option('keep', {type: 'boolean', default: false, describe: 'Leave the overlay files', group: 'Commit:'})
		.option('dry-run', {
			type: 'boolean',
			default: false,
			describe: 'Say how much would be moved, and change nothing',
			group: 'Commit:',
		})
		.example('$0 commit web1', 'the newest overlay of each disk')
		.example('$0 commit web1 --disk vda --base /vm/vda.qcow2', 'all overlays of one disk');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const {disk, top, base, keep, dryRun} = options;
		const request = {
			...context,
			...paceOf(options),
			sockets: await vmOf(options),
			disks: disk,
			top,
			base,
			keep,
			dryRun,
		};
		const printer = mergePrinter({...context, dryRun});
		await printAll(commit(request), printer);
		return undefined;
	});
}
