import {type bootCommand, formatBootCommand} from '../operations/boot-command.ts';
import {printable} from './printable.ts';
import {printNote, printResult} from './terminal.ts';

/** The command that starts a restored VM, on stdout, and what there is to know of it. */
export function printBoot({argv, notes}: ReturnType<typeof bootCommand>, quiet: boolean): void {
	if (!quiet) {
		for (const note of notes) printNote(`note: ${printable(note)}`);
		printNote('start it with:');
	}
	printResult(formatBootCommand(argv));
}
