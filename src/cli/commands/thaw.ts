import type {Argv} from 'yargs';
import {thaw} from '../../operations/thaw.ts';
import {agentOf, type VmOptions, vmOptions} from '../vm-options.ts';
import {toJson} from '../json.ts';
import {countOf} from '../quantities.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {printResult} from '../terminal.ts';

type Options = GlobalOptions & VmOptions;

export function build(yargs: Argv): Argv {
	return vmOptions(yargs)
		.usage(
			"$0 thaw [VM]\n\nThaws a guest's file systems, whoever froze them. Needs only the agent's socket; does no harm " +
				'to a guest that is not frozen.',
		)
		.example('$0 thaw --agent /run/web1.qga', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json, signal, transcript}) => {
		const report = await thaw(await agentOf(options), {signal, transcript});
		if (json) printResult(toJson(report));
		else if (report.was === 'thawed') printResult('the guest was not frozen');
		else printResult(`thawed ${countOf(report.fileSystems, 'file system')}`);
		return undefined;
	});
}
