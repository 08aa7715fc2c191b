import {type ErrorDetails, QuiesceError} from '../errors.ts';

/** The guest agent is absent, hung, or would not do it. */
export class AgentError extends QuiesceError {
	constructor(message: string, details?: ErrorDetails) {
		super('AGENT', message, details);
	}
}

/** The agent answered no. */
export class AgentCommandError extends AgentError {
	readonly command: string;

	constructor(command: string, description: string) {
		super(`the guest agent refused ${command}: ${description}`);
		this.command = command;
	}
}

/** No answer came: the command may have been done, or may still be. */
export class AgentTimeoutError extends AgentError {
	constructor(command: string, deadlineMs: number) {
		super(`the guest agent did not answer ${command} within ${deadlineMs / 1000} s`);
	}
}
