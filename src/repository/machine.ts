import * as v from 'valibot';
import {parseDocument} from './document.ts';

const MACHINE_FORMAT = 1;

/** machine.json: what is needed to start the VM again elsewhere. */
export interface Machine {
	readonly format: typeof MACHINE_FORMAT;
	readonly name: string;
	readonly uuid: string | null;
	/** With its version, such as `pc-q35-7.2`. */
	readonly machineType: string | null;
	readonly qemuVersion: string;
	readonly binary: string | null;
	/** With secrets left out by who wrote it; null if QEMU ran where it could not be read. */
	readonly commandLine: readonly string[] | null;
	readonly disks: readonly MachineDisk[];
	readonly capturedAt: string;
}

export interface MachineDisk {
	readonly name: string;
	/** Where it was on the VM's host. */
	readonly filename: string | null;
	readonly format: string;
	/** Names by which the command line may call it. */
	readonly nodeNames: readonly string[];
}

const schema: v.GenericSchema<unknown, Machine> = v.looseObject({
	format: v.literal(MACHINE_FORMAT),
	name: v.string(),
	uuid: v.nullable(v.string()),
	machineType: v.nullable(v.string()),
	qemuVersion: v.string(),
	binary: v.nullable(v.string()),
	commandLine: v.nullable(v.array(v.string())),
	disks: v.array(
		v.looseObject({
			name: v.string(),
			filename: v.nullable(v.string()),
			format: v.string(),
			nodeNames: v.array(v.string()),
		}),
	),
	capturedAt: v.string(),
});

/** Throws `DAMAGED`; `what` names the document in the message. */
export function parseMachine(text: string, what: string): Machine {
	return parseDocument(schema, MACHINE_FORMAT, text, what);
}
