// Takes a point in a process of its own, which the test may kill. Prints each message as a line of JSON.
import {backup} from '../../src/operations/backup.ts';
import type {BackupRequest} from '../../src/operations/backup-messages.ts';

const options = JSON.parse(process.argv[2] ?? '') as Omit<BackupRequest, 'signal' | 'tell'>;
const print = (message: object): void => {
	process.stdout.write(`${JSON.stringify(message)}\n`);
};
backup({...options, signal: new AbortController().signal, tell: () => undefined}).subscribe({
	next: print,
	error: (error: unknown) => {
		print({kind: 'failed', error: String(error)});
	},
});
