/** A client for QEMU's monitor, by itself: `quiesce/qmp`. */
export {formatAddress, parseAddress, type SocketAddress} from '../config/address.ts';
export {QmpConnection, type QmpOptions} from './connection.ts';
export {
	QmpCommandError,
	QmpDisconnectedError,
	QmpOutcomeUnknownError,
	QmpProtocolError,
	QmpTimeoutError,
	UnreachableError,
} from './errors.ts';
export {QmpSchema} from './introspection.ts';
export type {QmpCommandName, QmpCommands, QmpEvent, QmpEventName, QmpEvents} from './schema.ts';
export {FileTranscript, type Transcript} from './transcript.ts';
