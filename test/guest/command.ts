import {execFile} from 'node:child_process';

/** What a finished child process said. */
export interface Finished {
	readonly code: number;
	readonly stdout: string;
	readonly stderr: string;
}

// e2fsprogs live in folders that are not on an ordinary user's PATH.
const env = {...process.env, LC_ALL: 'C', PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`};

/** Any exit code is an answer; rejects only when the program could not be run or was killed. */
export const outcome = (program: string, args: readonly string[], cwd?: string): Promise<Finished> =>
	new Promise((resolve, reject) => {
		execFile(
			program,
			args,
			{env, maxBuffer: 64 << 20, ...(cwd === undefined ? {} : {cwd})},
			(error, stdout, stderr) => {
				if (error === null) resolve({code: 0, stdout, stderr});
				else if (typeof error.code === 'number') resolve({code: error.code, stdout, stderr});
				else reject(new Error(`${program} could not run to its end`, {cause: error}));
			},
		);
	});

/** Rejects with what the program said on stderr when it fails. */
export const output = async (program: string, args: readonly string[], cwd?: string): Promise<string> => {
	const {code, stdout, stderr} = await outcome(program, args, cwd);
	if (code !== 0) throw new Error(`${program} ${args.join(' ')}: exit code ${code}: ${stderr.trim() || stdout.trim()}`);
	return stdout;
};
