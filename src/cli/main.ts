import {programVersion} from '../version.ts';

/** Runs the program. Sets `process.exitCode`. Loads as little as it can: most of a short run is loading. */
export async function main(argv: readonly string[]): Promise<void> {
	// Unheard, it would open Node's debugger.
	process.on('SIGUSR1', () => undefined);
	// A reader that has seen enough, as `head` has, is no failure.
	process.stdout.on('error', () => process.exit());
	if (argv.length === 1 && argv[0] === '--version') {
		process.stdout.write(`${programVersion()}\n`);
		return;
	}
	const {runProgram} = await import('./program.ts');
	await runProgram(argv);
}
