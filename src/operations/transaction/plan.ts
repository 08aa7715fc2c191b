import * as v from 'valibot';
import {type DocumentProblem, type LocatedDocument, parseYaml, problemsError} from '../../config/located-yaml.ts';

const members = v.record(v.string(), v.unknown());
/** One member, which is called as the command is. */
const command = v.pipe(
	members,
	v.check(value => Object.keys(value).length === 1, 'expected one command, as in `blockdev-del: {node-name: a}`'),
);
const plan = v.strictObject({
	prepare: v.optional(v.array(command), []),
	actions: v.pipe(v.array(members), v.minLength(1, 'a transaction has at least one action')),
	properties: v.optional(members),
	after: v.optional(v.array(command), []),
	cleanup: v.optional(v.array(command), []),
});

/** What a file says that is to be done. */
export type TransactionPlan = Readonly<v.InferOutput<typeof plan>>;

/** With where each part of it stands. */
export interface LocatedPlan {
	readonly plan: TransactionPlan;
	/** An error that says of each problem where it is. */
	readonly refuse: (problems: readonly DocumentProblem[]) => Error;
}

/** Reads the text of a file, in YAML or JSON. Throws `UsageError`, with the lines, of what is no plan. */
export function parseTransaction(text: string, file: string): LocatedPlan {
	const document: LocatedDocument = parseYaml(text, file);
	const refuse = (problems: readonly DocumentProblem[]): Error =>
		problemsError('nothing was sent:', file, problems, document);
	const parsed = v.safeParse(plan, document.value);
	if (parsed.success) return {plan: parsed.output, refuse};
	throw refuse(
		parsed.issues.map(({path = [], message}) => ({path: path.map(({key}) => key as string | number), message})),
	);
}
