import {copyFile, mkdir, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {setTimeout as delay} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';
import type {Fault} from './fault.ts';
import {
	type Before,
	Findings,
	guestHarm,
	type Harm,
	lookBefore,
	requireNothingLeft,
	requireThawed,
	requireUnharmed,
} from './oracle.ts';
import {ageOwnerless} from './points.ts';
import {killAll, killWithGuards, ourProcesses} from './processes.ts';
import type {Scenario} from './scenario.ts';
import {outcomeOf, type Stage} from './stage.ts';
import {type ToolEnded, withOptions} from './tool.ts';

/** Where a fault strikes. */
export interface Point {
	readonly step: string;
	/** The step of the recovery at which that is killed. */
	readonly recoveryStep?: string;
}

export interface TrialResult {
	readonly scenario: string;
	readonly fault: string;
	readonly point: Point;
	/** False where the run ended before the step: nothing was tried. */
	readonly reached: boolean;
	readonly wrong: readonly string[];
	readonly guest: Harm;
	readonly ms: number;
	/** Where something is wrong, for looking into. */
	readonly transcript?: string;
}

const KEPT = fileURLToPath(new URL('../../../.cache/faults', import.meta.url));
const HUNG_MS = 120_000;
const GUARD_MS = 70_000;

/** Strikes one run at one step, and judges what comes of it. The stage is as new afterwards. */
export async function runTrial(scenario: Scenario, fault: Fault, stage: Stage, point: Point): Promise<TrialResult> {
	const begun = performance.now();
	const transcript = stage.new('transcript');
	const findings = new Findings();
	const before = await lookBefore(stage);
	let reached = false;
	let guest: Harm = {errors: 0, worstMs: 0, pausedMs: 0};
	await findings.check('the trial', async () => {
		const putBack = await fault.arrange?.(stage, scenario);
		try {
			await scenario.arrange?.(stage);
			reached = await strike(scenario, fault, stage, point, transcript, findings);
			// A run that lived has to have cleaned up itself.
			if (reached && fault.run === 'lives')
				await findings.check('what the run left', () =>
					requireNothingLeft(stage, before, fault.mayLeave ?? scenario.mayLeave),
				);
			await judge(scenario, stage, before, findings);
		} finally {
			// Only where a check itself has failed is there anything.
			await killAll(await ourProcesses(stage.runtimeDir));
			await putBack?.();
		}
	});
	await findings.check("the guest's writes", async () => {
		guest = await guestHarm(stage, before);
		if (scenario.guestBears?.[fault.name] === undefined) requireUnharmed(guest, mayPause(fault));
	});
	const {wrong} = findings;
	const kept = wrong.length > 0 ? {transcript: await keep(transcript, `${scenario.name}-${fault.name}`)} : {};
	const result = {scenario: scenario.name, fault: fault.name, point, reached, wrong, guest, ...kept};
	if (findings.wrong.length > 0 || guest.errors > 0) {
		await stage.renew();
	}
	return {...result, ms: performance.now() - begun};
}

/** Without a guard nobody resumes a paused VM before the recovery; and a program that hangs is given time. */
function mayPause({guestBackAfter, run}: Fault): boolean {
	return guestBackAfter === 'recovery' || (run === 'dies' && guestBackAfter === 'heal');
}

/** The stage's folder goes. */
async function keep(transcript: string, name: string): Promise<string> {
	await mkdir(KEPT, {recursive: true});
	const kept = join(KEPT, `${name}-${Date.now()}.transcript`);
	await copyFile(transcript, kept).catch(() => writeFile(kept, ''));
	return kept;
}

/** False if the run ended before it came to the step. */
async function strike(
	scenario: Scenario,
	fault: Fault,
	stage: Stage,
	point: Point,
	transcript: string,
	findings: Findings,
): Promise<boolean> {
	const tool = stage.start(argsOf(scenario, fault, stage, transcript), {
		steps: stage.new('steps'),
		stopAt: point.step,
		timeoutMs: HUNG_MS,
		...(fault.env ? {env: fault.env(stage)} : {}),
	});
	if (!(await tool.stopped)) {
		const ended = await tool.ended;
		if (ended.code !== 0) findings.wrong.push(`before ${point.step}: ${outcomeOf(ended)}`);
		return false;
	}
	const goOn = (): void => {
		tool.signal('SIGCONT');
	};
	const heal = await fault.strike({scenario, stage, tool, goOn});
	if (fault.run === 'lives') goOn();
	else if (fault.guestBackAfter === 'strike') await findings.check('2 s after it', () => requireThawed(stage));
	const ended = await tool.ended;
	await heal?.();
	await findings.check('the run', () => {
		requireExpectedEnd(fault, ended);
		return Promise.resolve();
	});
	if (fault.guestBackAfter === 'heal') await findings.check('once it is over', () => requireThawed(stage, HEALED_MS));
	if (point.recoveryStep !== undefined) await killRecovery(scenario, stage, point.recoveryStep);
	return true;
}

/** An agent that answers again is asked again after at most that: the guard's longest pause. */
const HEALED_MS = 20_000;

function argsOf(scenario: Scenario, fault: Fault, stage: Stage, transcript: string): string[] {
	const args = scenario.args(stage, {slow: fault.slow === true});
	return withOptions(args, [...(fault.args?.(stage) ?? []), '--transcript', transcript]);
}

function requireExpectedEnd(fault: Fault, ended: ToolEnded): void {
	if (fault.run === 'dies') {
		if (ended.signal !== 'SIGKILL' || ended.timedOut) throw new Error(`was to be killed, but: ${outcomeOf(ended)}`);
		return;
	}
	if (ended.timedOut || ended.signal !== null) throw new Error(outcomeOf(ended));
	fault.expects?.(ended.code, ended.stderr);
}

/** What recovers, what is then there, and whether the operation succeeds again. */
async function judge(scenario: Scenario, stage: Stage, before: Before, findings: Findings): Promise<void> {
	await findings.check('the guard', () => untilGuardsAreGone(stage));
	await findings.check('the recovery', async () => {
		await ageOwnerless(scenario.repository(stage), stage.guest.name);
		await stage.succeed(recoveryArgs(scenario, stage));
	});
	await findings.check('after the recovery', () => requireThawed(stage));
	await findings.check('after the recovery', () => requireNothingLeft(stage, before, scenario.mayLeave));
	await findings.check('what is visible', () => scenario.judge(stage));
	await findings.check('once more', async () => {
		const again = await stage.succeed(scenario.args(stage, {slow: false}));
		await scenario.judge(stage, again);
		await requireNothingLeft(stage, before);
	});
}

/** A guard that outlived its run undoes what that left; whoever comes meanwhile is refused. */
async function untilGuardsAreGone({runtimeDir}: Stage): Promise<void> {
	const deadline = performance.now() + GUARD_MS;
	for (;;) {
		const guards = (await ourProcesses(runtimeDir)).filter(({commandLine}) => commandLine.includes('guard-process'));
		if (guards.length === 0) return;
		if (performance.now() > deadline) throw new Error(`still at work after ${GUARD_MS / 1000} s`);
		await delay(50);
	}
}

/** The command that undoes what a dead run has left. */
export function recoveryArgs(scenario: Scenario, stage: Stage): readonly string[] {
	return ['recover', ...stage.sockets, '-r', scenario.repository(stage)];
}

async function killRecovery(scenario: Scenario, stage: Stage, step: string): Promise<void> {
	const args = [...recoveryArgs(scenario, stage), '--transcript', stage.new('transcript')];
	const tool = stage.start(args, {steps: stage.new('steps'), stopAt: step});
	if (await tool.stopped) await killWithGuards(stage, tool);
	await tool.ended;
}
