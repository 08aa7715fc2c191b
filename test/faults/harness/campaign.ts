import {readFile} from 'node:fs/promises';
import {sampled} from '../../support/thorough.ts';
import type {Fault} from './fault.ts';
import type {Scenario} from './scenario.ts';
import {Stage, type VmKind} from './stage.ts';
import {stepsAt} from './steps.ts';
import {killWithGuards} from './processes.ts';
import {withOptions} from './tool.ts';
import {type Point, recoveryArgs, runTrial, type TrialResult} from './trial.ts';

export interface Campaign {
	readonly scenarios: readonly Scenario[];
	readonly faults: readonly Fault[];
	/** `all`: at every step. `sample`: where most is at stake. `few`: at two of these, others each time. */
	readonly points: 'all' | 'sample' | 'few';
	/** Told each result as it comes. */
	readonly tell: (result: TrialResult) => void;
}

const PLAIN: VmKind = {name: 'plain'};
const vmOf = (scenario: Scenario, fault: Fault): VmKind => fault.vm ?? scenario.vm ?? PLAIN;
/** Of a recovery, in the short campaign. */
const SPREAD = 2;

/** One guest for each kind of VM; trials one after the other. What fails does not end the campaign. */
export async function runCampaign(campaign: Campaign): Promise<TrialResult[]> {
	const results: TrialResult[] = [];
	const tell = (result: TrialResult): void => {
		campaign.tell(result);
		results.push(result);
	};
	for (const scenario of campaign.scenarios) {
		const faults = campaign.faults.filter(fault => isMeant(scenario, fault, campaign.points));
		for (const vm of new Set(faults.map(fault => vmOf(scenario, fault)))) {
			const here = faults.filter(fault => vmOf(scenario, fault) === vm);
			try {
				await runOnOneVm(scenario, here, vm, campaign.points, tell);
			} catch (error) {
				for (const {name} of here) tell(notTried(scenario.name, name, error));
			}
		}
	}
	return results;
}

async function runOnOneVm(
	scenario: Scenario,
	faults: readonly Fault[],
	vm: VmKind,
	points: Campaign['points'],
	tell: Campaign['tell'],
): Promise<void> {
	await using stage = await Stage.set(vm, scenario.fileSystem);
	await scenario.prepare?.(stage);
	const steps = await stepsOf(scenario, stage);
	for (const fault of faults) {
		for (const point of await pointsFor(scenario, fault, stage, steps, points)) {
			tell(await runTrial(scenario, fault, stage, point));
		}
	}
}

/** Where the harness itself has failed: nothing is known then, which is no success. */
function notTried(scenario: string, fault: string, error: unknown): TrialResult {
	const wrong = [`the stage: ${error instanceof Error ? error.message : String(error)}`];
	return {
		scenario,
		fault,
		point: {step: 'the beginning'},
		reached: false,
		wrong,
		guest: {errors: 0, worstMs: 0, pausedMs: 0},
		ms: 0,
	};
}

function isMeant({only, without, sample}: Scenario, {name}: Fault, points: Campaign['points']): boolean {
	if (points !== 'all' && !(sample?.includes(name) ?? true)) return false;
	return (only?.includes(name) ?? true) && !(without?.includes(name) ?? false);
}

/** Those of a run that goes well: a new step of the program is covered by itself. */
async function stepsOf(scenario: Scenario, stage: Stage): Promise<string[]> {
	await scenario.arrange?.(stage);
	const file = stage.new('steps');
	const args = withOptions(scenario.args(stage, {slow: false}), ['--transcript', stage.new('transcript')]);
	const ended = await stage.run(args, {steps: file});
	if (ended.code !== 0) throw new Error(`${scenario.name} does not even go well alone: ${ended.stderr}`);
	await scenario.judge(stage, ended);
	return readSteps(file);
}

async function readSteps(file: string): Promise<string[]> {
	return (await readFile(file, 'utf8')).trimEnd().split('\n');
}

async function pointsFor(
	scenario: Scenario,
	fault: Fault,
	stage: Stage,
	steps: readonly string[],
	points: Campaign['points'],
): Promise<Point[]> {
	const possible = steps.filter(step => (scenario.within?.[fault.name] ?? fault.at)?.test(step) ?? true);
	const some = stepsAt(scenario.at?.[fault.name] ?? fault.sample, possible);
	const chosen = {all: possible, sample: some, few: sampled(some, 2)}[points];
	if (fault.recoveryDies !== true) return chosen.map(step => ({step}));
	const pairs: Point[] = [];
	for (const step of chosen) {
		const recovery = await stepsOfRecovery(scenario, stage, step);
		const steps = points === 'all' ? recovery : spread(recovery, SPREAD);
		pairs.push(...steps.map(recoveryStep => ({step, recoveryStep})));
	}
	return pairs;
}

/** Those of what recovers from a run that is killed at a step. */
async function stepsOfRecovery(scenario: Scenario, stage: Stage, step: string): Promise<string[]> {
	await scenario.arrange?.(stage);
	const args = withOptions(scenario.args(stage, {slow: false}), ['--transcript', stage.new('transcript')]);
	const tool = stage.start(args, {steps: stage.new('steps'), stopAt: step});
	if (await tool.stopped) await killWithGuards(stage, tool);
	await tool.ended;
	const file = stage.new('steps');
	await stage.run([...recoveryArgs(scenario, stage), '--transcript', stage.new('transcript')], {steps: file});
	await scenario.judge(stage);
	return readSteps(file);
}

function spread(steps: readonly string[], count: number): string[] {
	return Array.from({length: count}, (_, index) => steps[Math.floor(((index + 0.5) / count) * steps.length)]).filter(
		step => step !== undefined,
	);
}
