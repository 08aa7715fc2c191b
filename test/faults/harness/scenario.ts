import type {Stage} from './stage.ts';
import type {ToolEnded} from './tool.ts';

/** Something that the program does, which faults are to interrupt. */
export interface Scenario {
	readonly name: string;
	/** Once for each stage. */
	readonly prepare?: (stage: Stage) => Promise<void>;
	/** Where its points are. */
	readonly repository: (stage: Stage) => string;
	/** The command line; `slow` for a copy that takes a few seconds. */
	readonly args: (stage: Stage, how: {readonly slow: boolean}) => readonly string[];
	/** What a run that goes on has made so far, and a fault may take away. */
	readonly unfinished: (stage: Stage) => Promise<readonly string[]>;
	/**
	 * Throws unless everything visible is right, whether or not a run brought it; then takes it away. Without `ended`
	 * nothing needs to be there.
	 */
	readonly judge: (stage: Stage, ended?: ToolEnded) => Promise<void>;
	/** Faults from which this cannot shield the guest, by name: what it says of them. */
	readonly guestBears?: Readonly<Record<string, string>>;
	/** The names of faults that make no sense here. */
	readonly without?: readonly string[];
	/** Only these faults. */
	readonly only?: readonly string[];
	/** What the short campaign is content with. */
	readonly sample?: readonly string[];
}
