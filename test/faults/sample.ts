import {expect} from 'vitest';
import {runCampaign} from './harness/campaign.ts';
import type {Fault} from './harness/fault.ts';
import {FAULTS} from './harness/faults/all.ts';
import {lineOf} from './harness/report.ts';
import type {Scenario} from './harness/scenario.ts';

/** Much longer than any of the test files takes. */
export const SAMPLE_MS = 1_200_000;

/** The short campaign over some scenarios; what went wrong is the failure. */
export async function expectSurvival(scenarios: readonly Scenario[], faults: readonly Fault[] = FAULTS): Promise<void> {
	const results = await runCampaign({scenarios, faults, points: 'few', tell: () => undefined});
	expect(results.filter(({wrong}) => wrong.length > 0).map(lineOf)).toEqual([]);
	expect(results.filter(({reached}) => reached).length).toBeGreaterThanOrEqual(results.length / 2);
}
