import type {Argv} from 'yargs';
import {freezeAround, type FreezeRequest, freezeUntilThawed} from '../../operations/freeze.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {countOf, formatSeconds, parseDuration} from '../quantities.ts';
import {type CommandContext, type GlobalOptions, runCommand} from '../run-command.ts';
import {printNote, printResult} from '../terminal.ts';
import {agentOf, type VmOptions, vmOptions} from '../vm-options.ts';

interface Options extends GlobalOptions, VmOptions {
	readonly 'freezeTimeout': string;
	readonly 'for': string;
	readonly 'mountpoint'?: readonly string[];
	readonly '--'?: readonly string[];
}

export function build(yargs: Argv): Argv {
	return vmOptions(yargs)
		.usage(
			"$0 freeze [VM] [-- COMMAND…]\n\nFreezes a guest's file systems. With a COMMAND, runs it while the guest is frozen, always " +
				"thaws, and exits with the COMMAND's own status. Without one, leaves the guest frozen until " +
				'`quiesce thaw`, or until --for has passed.',
		)
		.option('for', {type: 'string', default: '60s', describe: 'The longest time the guest may stay frozen'})
		.option('freeze-timeout', {type: 'string', default: '60s', describe: 'How long the freeze and its hooks may take'})
		.option('mountpoint', {
			type: 'string',
			array: true,
			nargs: 1,
			describe: 'Freeze only what is mounted there (may be repeated)',
		})
		.group(['for', 'freeze-timeout', 'mountpoint'], 'Freeze:')
		.example('$0 freeze web1 -- lvcreate --snapshot --name web1-snap vg0/web1', '')
		.example('$0 freeze --agent /run/web1.qga --for 30s', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async context => {
		const request: FreezeRequest = {
			...context,
			agent: await agentOf(options),
			freezeTimeoutMs: parseDuration(options.freezeTimeout, '--freeze-timeout'),
			holdMs: parseDuration(options.for, '--for'),
			mountpoints: options.mountpoint,
			commandOutput: context.json ? 'stderr' : 'stdout',
		};
		const command = options['--'];
		return command === undefined ? freeze(request, context) : freezeWith(request, command, context);
	});
}

async function freeze(request: FreezeRequest, {json}: CommandContext): Promise<undefined> {
	const frozen = await freezeUntilThawed(request);
	if (json) printResult(toJson({messageType: 'summary', ...frozen}));
	else printResult(`frozen: ${countOf(frozen.fileSystems, 'file system')}, until \`quiesce thaw\` or ${frozen.until}`);
}

async function freezeWith(
	request: FreezeRequest,
	command: readonly string[],
	{json, quiet}: CommandContext,
): Promise<number> {
	const {exitStatus, window} = await freezeAround(request, command);
	const {frozen, thawed, freezeMs, heldMs, thawMs, doubt} = window;
	if (json) {
		const times = {freezeSeconds: freezeMs / 1000, heldSeconds: heldMs / 1000, thawSeconds: thawMs / 1000};
		printResult(toJson({messageType: 'summary', exitStatus, fileSystems: frozen, thawed, ...times, doubt}));
	}
	if (!quiet && !json) {
		printNote(
			`thawed: ${countOf(frozen, 'file system')} had been frozen (freeze ${formatSeconds(freezeMs / 1000)}, ` +
				`held ${formatSeconds(heldMs / 1000)}, thaw ${formatSeconds(thawMs / 1000)})`,
		);
	}
	if (doubt !== undefined) request.tell(`the freeze did not hold: ${printable(doubt)}`);
	return exitStatus;
}
