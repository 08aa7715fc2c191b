import {open, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import type {Fault} from '../fault.ts';
import type {Stage} from '../stage.ts';
import {COPYING} from '../steps.ts';

const DAY_S = 86_400n;

const fileOf = (stage: Stage): string => join(stage.folder, 'clock');

/** The file is mapped by the program, so it is overwritten in place. */
async function setOffset(stage: Stage, seconds: bigint): Promise<void> {
	const bytes = Buffer.alloc(8);
	bytes.writeBigInt64LE(seconds);
	await using file = await open(fileOf(stage), 'r+');
	await file.write(bytes, 0, bytes.length, 0);
}

function stepBy(name: string, title: string, seconds: bigint): Fault {
	return {
		name,
		title,
		run: 'lives',
		guestBackAfter: 'heal',
		arrange: async stage => {
			await writeFile(fileOf(stage), Buffer.alloc(8));
			return () => Promise.resolve();
		},
		env: stage => ({LD_PRELOAD: stage.native.clockLibrary, QUIESCE_TEST_CLOCK: fileOf(stage)}),
		strike: async ({stage}) => {
			await setOffset(stage, seconds);
			return undefined;
		},
		expects: (code, stderr) => {
			if (code !== 0) throw new Error(`exit code ${code ?? 'none'}: ${stderr}`);
		},
		sample: [COPYING],
	};
}

export const CLOCK: readonly Fault[] = [
	stepBy('clock-forward', "The program's clock is set forward by a day", DAY_S),
	stepBy('clock-back', "The program's clock is set back by a day", -DAY_S),
];
