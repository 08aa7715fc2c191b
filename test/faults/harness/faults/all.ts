import type {Fault} from '../fault.ts';
import {AGENT_FAULTS} from './agent.ts';
import {CLOCK} from './clock.ts';
import {KILLED} from './killed.ts';
import {READER} from './reader.ts';
import {STORAGE} from './storage.ts';
import {VM} from './vm.ts';

/** In the order of the table. */
export const FAULTS: readonly Fault[] = [...KILLED, ...VM, ...AGENT_FAULTS, ...STORAGE, ...READER, ...CLOCK];

/** Some of them, by their names. */
export function faultsNamed(...names: readonly string[]): readonly Fault[] {
	return FAULTS.filter(({name}) => names.includes(name));
}
