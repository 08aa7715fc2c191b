import type {FileSystem} from './file-systems.ts';
import type {Stage, VmKind} from './stage.ts';
import type {Place} from './steps.ts';
import type {ToolEnded} from './tool.ts';

/** Something that the program does, which faults are to interrupt. */
export interface Scenario {
	readonly name: string;
	/** The VM, where a fault does not say. */
	readonly vm?: VmKind;
	/** What the target has to be on; default whatever is there, and ext4 where a fault needs one of its own. */
	readonly fileSystem?: FileSystem;
	/** Once for each stage. */
	readonly prepare?: (stage: Stage) => Promise<void>;
	/** Before each run that is to be struck: what it goes by is put into the target. */
	readonly arrange?: (stage: Stage) => Promise<void>;
	/** Where its points are. */
	readonly repository: (stage: Stage) => string;
	/** The command line; `slow` for a copy that takes a few seconds. */
	readonly args: (stage: Stage, how: {readonly slow: boolean}) => readonly string[];
	/** What a run that goes on has made so far, and a fault may take away. */
	readonly unfinished: (stage: Stage) => Promise<readonly string[]>;
	/**
	 * Throws unless everything visible is right, whether or not a run brought it; then takes it away, unless the next run
	 * goes by it. Without `ended` nothing needs to be there.
	 */
	readonly judge: (stage: Stage, ended?: ToolEnded) => Promise<void>;
	/** What a killed run cannot help leaving, for the next one to remove, and not for the recovery. */
	readonly mayLeave?: RegExp;
	/** Faults from which this cannot shield the guest, by name: what it says of them. */
	readonly guestBears?: Readonly<Record<string, string>>;
	/** The names of faults that make no sense here. */
	readonly without?: readonly string[];
	/** Only these faults. */
	readonly only?: readonly string[];
	/** What the short campaign is content with. */
	readonly sample?: readonly string[];
	/** Which steps make sense, by the names of faults: in place of what these say themselves. */
	readonly within?: Readonly<Record<string, RegExp>>;
	/** Where most is at stake, by the names of faults: in place of what these say themselves. */
	readonly at?: Readonly<Record<string, readonly Place[]>>;
}
