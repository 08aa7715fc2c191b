import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {ourProcesses} from '../faults/harness/processes.ts';
import {qemuState} from '../faults/harness/qemu-state.ts';
import type {Ledger} from './ledger.ts';
import {hiddenFolders, makeOld} from './points.ts';
import {outcomeOf, Program} from './program.ts';
import type {Stage} from './stage.ts';
import type {Tally} from './tally.ts';

/** What ends by itself needs a moment. */
const GONE_MS = 3_000;

/** Once the last point is taken: that nothing is left of all these runs, and that all points are still right. */
export async function judgeEnd(stage: Stage, ledger: Ledger, tally: Tally): Promise<void> {
	const {vm, runtimeDir} = stage;
	const succeed = async (args: readonly string[]): Promise<void> => {
		const ended = await new Program(args, runtimeDir).ended;
		if (ended.code !== 0) tally.find(`quiesce ${args[0] ?? ''}: ${outcomeOf(ended)}`);
	};
	const {qmpPath, agentPath} = vm.guest;
	// The second may never have come to be one.
	const repositories = [stage.repository, stage.second].filter(one => existsSync(join(one, 'repository.json')));
	for (const repository of repositories) {
		await makeOld(await hiddenFolders(repository, vm.name));
		await succeed(['recover', '--qmp', qmpPath, '--agent', agentPath, '-r', repository]);
	}
	await delay(GONE_MS);
	for (const left of await leftovers(stage)) tally.find(`left: ${left}`);
	await vm.end('quit');
	for (const repository of repositories) {
		await succeed(['verify', '--deep', '-r', repository]);
		await ledger.judgeAll(repository);
	}
}

async function leftovers({vm, runtimeDir, repository, second}: Stage): Promise<string[]> {
	const inQemu = (await qemuState(vm.guest)).filter(line => line.includes('qsc-') || line.startsWith('job '));
	const processes = (await ourProcesses(runtimeDir)).map(({commandLine}) => commandLine);
	const hidden = [...(await hiddenFolders(repository, vm.name)), ...(await hiddenFolders(second, vm.name))];
	return [...inQemu, ...processes, ...hidden];
}
