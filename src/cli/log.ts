import {createRequire} from 'node:module';
import type {Logger} from 'pino';
import type {Transcript} from '../qmp/transcript.ts';
import {divertWords} from './terminal.ts';

/** The diagnostic log of `--log`: JSON lines on stderr, for machines and for bug reports. */
export interface Log {
	info(text: string, details?: object): void;
	warn(text: string): void;
	error(error: unknown, details: object): void;
	/** At `trace`, takes all that goes over the wires, unless that goes to a file of its own. */
	readonly transcript?: Transcript;
}

/** With `json` the words for people are in the log too, at `info`, and stderr is nothing but its lines. */
export const LOG_CHOICES = ['silent', 'json', 'error', 'warn', 'info', 'debug', 'trace'] as const;

/** A silent log costs nothing: the library is not even loaded. */
export function openLog(choice: string): Log {
	if (choice === 'silent') return {info: () => undefined, warn: () => undefined, error: () => undefined};
	const {pino} = createRequire(import.meta.url)('pino') as typeof import('pino');
	const level = choice === 'json' ? 'info' : choice;
	const logger: Logger = pino({level, base: {pid: process.pid}}, pino.destination({fd: 2, sync: true}));
	const log: Log = {
		info: (text, details = {}) => {
			logger.info(details, text);
		},
		warn: text => {
			logger.warn(text);
		},
		error: (error, details) => {
			logger.error({err: error, ...details}, 'failed');
		},
	};
	if (choice === 'json') {
		divertWords(text => {
			logger.info(text);
		});
	}
	if (!logger.isLevelEnabled('trace')) return log;
	const transcript: Transcript = {
		of: peer => (direction, message) => {
			logger.trace({peer, direction, message});
		},
	};
	return {...log, transcript};
}
