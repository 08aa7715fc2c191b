import {BaseSequencer, type TestSpecification} from 'vitest/node';

/** A long file that starts last is waited for by one worker alone. In their order. */
const SLOW = [
	/test\/faults\/(fleece|increment|snapshot)/,
	/test\/end-to-end\//,
	/test\/operations\/(recover|killed-prune|prune)/,
	/test\/(faults|cut|cli|guest-agent|guest|package|freeze-hooks)\//,
];

/** The order of the test files, where no earlier run tells how long each takes. */
export class SlowestFirst extends BaseSequencer {
	override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
		const sorted = await super.sort(files);
		return sorted.toSorted((one, other) => rankOf(one) - rankOf(other));
	}
}

function rankOf({moduleId}: TestSpecification): number {
	const rank = SLOW.findIndex(pattern => pattern.test(moduleId));
	return rank === -1 ? SLOW.length : rank;
}
