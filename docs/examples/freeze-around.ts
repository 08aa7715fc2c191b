/**
 * Runs a program while the guest is frozen, such as a storage snapshot:
 * node freeze-around.ts /run/web1.qga lvcreate --snapshot …
 */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {freezeWhile, parseAddress} from 'quiesce';

const [agent = '', program = '', ...args] = process.argv.slice(2);
const {exitStatus, window} = await freezeWhile(
	{
		agent: parseAddress(agent),
		freezeTimeoutMs: 60_000,
		// After which the guest is thawed, whatever goes on.
		holdMs: 10_000,
		signal: AbortSignal.timeout(120_000),
		tell: console.warn,
	},
	async () => {
		const [code] = (await once(spawn(program, args, {stdio: 'inherit'}), 'exit')) as [number | null];
		return code ?? 1;
	},
);
console.log(`${window.frozen} file systems were frozen for ${window.heldMs.toFixed(1)} ms`);
process.exitCode = exitStatus;
