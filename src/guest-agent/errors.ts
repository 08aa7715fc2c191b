import {type ErrorDetails, QuiesceError} from '../errors.ts';

const MAX_WORDS = 500;

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
		super(`the guest agent refused ${command}: ${harmless(description)}`);
		this.command = command;
	}
}

/** The guest chose these words; they must not steer the operator's terminal, nor fill it. */
function harmless(text: string): string {
	const short = text.length > MAX_WORDS ? `${text.slice(0, MAX_WORDS)}…` : text;
	return short.replaceAll(/\p{C}+/gu, ' ').trim();
}

/** No answer came: the command may have been done, or may still be. */
export class AgentTimeoutError extends AgentError {
	constructor(command: string, deadlineMs: number) {
		super(`the guest agent did not answer ${command} within ${deadlineMs / 1000} s`);
	}
}
