import type {Random} from './random.ts';
import type {RepositoryDisk} from './file-systems.ts';
import type {WritingVm} from './vm.ts';

/** What is played on. */
export interface Stage {
	readonly folder: string;
	readonly runtimeDir: string;
	readonly random: Random;
	readonly vm: WritingVm;
	readonly disk: RepositoryDisk;
	/** The points that are counted. */
	readonly repository: string;
	/** Of somebody else, who backs up the same VM now and then. */
	readonly second: string;
}

/** Puts right what was done. */
export type Heal = () => Promise<void>;
