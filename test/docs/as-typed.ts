import {runtimeDir} from '../cli/run-quiesce.ts';
import {type Finished, outcome} from '../guest/command.ts';
import {project} from './pages.ts';

/** Runs commands of a page in a shell in which `quiesce` is this clone's; the first that fails ends it. */
export function runAsTyped(commands: string): Promise<Finished> {
	const quiesce = `quiesce() { QUIESCE_CONFIG= QUIESCE_RUNTIME_DIR=${runtimeDir} '${process.execPath}' ${project}/bin/quiesce.js "$@"; }`;
	return outcome('bash', ['-ec', `${quiesce}\n${commands}`]);
}
