/** NBD, both sides of it: `quiesce/nbd`. */
export {NbdClient, type NbdOptions} from './client.ts';
export {NbdError, NbdRequestError} from './errors.ts';
export type {NbdExport, ZeroesWanted} from './export.ts';
export type {StatusExtent} from './protocol.ts';
export {type NbdServer, type NbdServerOptions, serveNbd} from './server.ts';
export type {ClientTls, ServerTls} from './tls.ts';
export {nbdUri} from './uri.ts';
