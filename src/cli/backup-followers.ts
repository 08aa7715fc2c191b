import type {Config, HookAction as ConfiguredAction} from '../config/config-schema.ts';
import {readDuration} from '../config/quantities.ts';
import type {Followers} from '../operations/followed-run.ts';
import {
	type HookAction,
	type HookActions,
	hooksOf,
	NO_HOOKS,
	type RunFacts,
	type RunHooks,
	type RunMoment,
} from '../operations/run-hooks.ts';
import type {CommandContext} from './run-command.ts';

/** The hooks of a config file, for a run or for one VM of it; none without a file. */
export function configuredHooks(
	config: Config | undefined,
	known: RunFacts,
	{tell}: Pick<CommandContext, 'tell'>,
): RunHooks {
	return config ? hooksOf(actionsOf(config), known, tell) : NO_HOOKS;
}

/** Who a config file says is to know how a run goes. */
export function followersOf(
	config: Config | undefined,
	{vms, ...known}: {readonly vms: readonly string[]; readonly group?: string; readonly repository: string},
	context: Pick<CommandContext, 'tell' | 'signal'>,
): Followers {
	const facts = {VM: vms.join(' '), GROUP: known.group, REPOSITORY: known.repository};
	return {...context, vms, hooks: configuredHooks(config, facts, context), metrics: config?.metrics};
}

function actionsOf({hooks}: Config): HookActions {
	return Object.fromEntries(
		Object.entries(hooks).map(([moment, actions = []]) => [
			moment.replace('_', '-') as RunMoment,
			actions.map(actionOf),
		]),
	) satisfies Partial<Record<RunMoment, unknown>>;
}

function actionOf({timeout, on_failure: whenItFails, ...what}: ConfiguredAction): HookAction {
	const limits = {timeoutMs: timeout === undefined ? undefined : readDuration(String(timeout)), whenItFails};
	if ('command' in what) return {does: {command: what.command}, ...limits};
	return {does: 'ping' in what ? {url: what.ping} : {urlIn: what.ping_file}, ...limits};
}
