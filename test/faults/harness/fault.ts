import type {Scenario} from './scenario.ts';
import type {Stage, VmKind} from './stage.ts';
import type {Place} from './steps.ts';
import type {Tool} from './tool.ts';

/** A run that stands still at a step, for a fault to strike. */
export interface Trial {
	readonly scenario: Scenario;
	readonly stage: Stage;
	readonly tool: Tool;
	/** Lets the run go on; further calls do nothing. */
	readonly goOn: () => void;
}

/** What is to be done once the run has ended, before anything is judged. */
type Heal = () => Promise<void>;

/** Something that goes wrong. */
export interface Fault {
	readonly name: string;
	/** What it is, for the table. */
	readonly title: string;
	/** `dies`: the run is killed by it. `lives`: the run has to come to an end by itself, and leave nothing. */
	readonly run: 'dies' | 'lives';
	/**
	 * When the guest has to be as it was, running and thawed: 2 s after the strike, or once it is healed, or only after
	 * what recovers from the fault.
	 */
	readonly guestBackAfter: 'strike' | 'heal' | 'recovery';
	/** A VM of its own kind. */
	readonly vm?: VmKind;
	/** Whether the copy should take a few seconds. */
	readonly slow?: boolean;
	/** More of the environment. */
	readonly env?: (stage: Stage) => Readonly<Record<string, string>>;
	/** More arguments. */
	readonly args?: (stage: Stage) => readonly string[];
	/** Before the run starts. Returns what undoes it. */
	readonly arrange?: (stage: Stage, scenario: Scenario) => Promise<() => Promise<void>>;
	readonly strike: (trial: Trial) => Promise<Heal | undefined>;
	/** Throws if the run, which lived, should not have ended as it did. */
	readonly expects?: (code: number | null, stderr: string) => void;
	/** What a run that lives cannot help leaving, for the recovery to remove. */
	readonly mayLeave?: RegExp;
	/** Where the short campaign strikes. */
	readonly sample: readonly Place[];
	/** Which steps make sense; default all. */
	readonly at?: RegExp;
	/** The recovery after it is killed too, at each of its own steps. */
	readonly recoveryDies?: boolean;
}
