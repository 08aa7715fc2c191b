/** A session with a QEMU guest agent, by itself: `quiesce/guest-agent`. */
export {GuestAgent, type AgentInfo, type AgentOptions, type AgentStatus} from './agent.ts';
export {AgentCommandError, AgentError, AgentTimeoutError} from './errors.ts';
