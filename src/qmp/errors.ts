import {type ErrorDetails, QuiesceError} from '../errors.ts';

/** No session could be opened: nothing listens, permission is missing, or the monitor is busy. Nothing was sent. */
export class UnreachableError extends QuiesceError {
	/** True where the socket has nobody behind it any more: what was inside QEMU has gone with it. */
	readonly vmHasEnded: boolean;

	constructor(message: string, {vmHasEnded = false, ...details}: ErrorDetails & {readonly vmHasEnded?: boolean} = {}) {
		super('UNREACHABLE', message, details);
		this.vmHasEnded = vmHasEnded;
	}
}

/** What arrived is not the protocol. The connection is closed. */
export class QmpProtocolError extends QuiesceError {
	constructor(message: string, details?: ErrorDetails) {
		super('UNREACHABLE', message, details);
	}
}

/** QEMU understood the command and refused it: it had no effect. `errorClass` is API, the text is not. */
export class QmpCommandError extends QuiesceError {
	readonly command: string;
	readonly errorClass: string;

	constructor(command: string, errorClass: string, description: string) {
		super('REFUSED', `QEMU refused ${command}: ${description}`);
		this.command = command;
		this.errorClass = errorClass;
	}
}

/** Whether a command took effect is unknown: its answer did not come. Read the state again; never just repeat it. */
export class QmpOutcomeUnknownError extends QuiesceError {
	constructor(message: string, details?: ErrorDetails) {
		super('VM_LOST', message, details);
	}
}

/** The socket went away: QEMU ended, or closed the monitor. */
export class QmpDisconnectedError extends QmpOutcomeUnknownError {}

/** The connection stands, but no answer came within the command's deadline. */
export class QmpTimeoutError extends QmpOutcomeUnknownError {
	constructor(command: string, deadlineMs: number) {
		super(`QEMU did not answer ${command} within ${deadlineMs / 1000} s`, {
			hint: 'QEMU may hang on its storage; look at its log and at its state with another monitor.',
		});
	}
}
