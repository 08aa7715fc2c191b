/**
 * The library: what the command line is made of. Operations are cold Observables of typed messages, cancelled by an
 * AbortSignal; the QMP client stands by itself.
 */
export {backup} from './operations/backup.ts';
export {backupGroup, type GroupBackupMessage, type GroupBackupRequest} from './operations/backup-group.ts';
export type {BackupMessage, BackupPlan, BackupRequest, CutRecord, DiskProgress} from './operations/backup-messages.ts';
export {commit, type CommitRequest, type MergeMessage} from './operations/commit.ts';
export {discover, type DiscoveredVm} from './operations/discover.ts';
export {doctor, type DoctorRequest, type Finding} from './operations/doctor.ts';
export {expose} from './operations/expose/expose.ts';
export type {ExposedDisk, ExposeMessage, ExposeRequest} from './operations/expose/expose-messages.ts';
export type {ExportMessage, ExportVmRequest} from './operations/archive/export-messages.ts';
export {exportPoint, type ExportPointRequest} from './operations/archive/export-point.ts';
export {exportVm} from './operations/archive/export-vm.ts';
export {
	type CommandRequest,
	freezeAround,
	type FreezeRequest,
	freezeWhile,
	type FrozenCommand,
} from './operations/freeze.ts';
export {importArchive, type ImportMessage, type ImportRequest} from './operations/archive/import-archive.ts';
export {type HookAction, type HookActions, hooksOf, type RunHooks, type RunMoment} from './operations/run-hooks.ts';
export {inspect, type VmReport} from './operations/inspect.ts';
export {changeJobs, type JobChange, listJobs, type WatchMessage, watchJobs} from './operations/jobs.ts';
export {list, type ListMessage, type ListOptions} from './operations/list.ts';
export {protect, type ProtectOptions, type ProtectReport, unprotect} from './operations/protect.ts';
export {prune, type PruneMessage, type PruneOptions, type PruneSummary} from './operations/prune.ts';
export {recover, type Recovered, type RecoverRequest} from './operations/recover.ts';
export {recoverAll, type RecoveredOf} from './operations/recover-all.ts';
export {restore, type RestoredDisk, type RestoreMessage, type RestoreOptions} from './operations/restore.ts';
export {serve, type ServeRequest, type Serving} from './operations/serve/serve.ts';
export {createSnapshot} from './operations/snapshot-create.ts';
export {deleteSnapshot, type DeleteSnapshotMessage, type DeleteSnapshotRequest} from './operations/snapshot-delete.ts';
export {listVmSnapshots, type SnapshotListRequest, type SnapshotReport} from './operations/snapshot-list.ts';
export type {AnySnapshotRequest, SnapshotMessage} from './operations/snapshot-messages.ts';
export {stream, type StreamRequest} from './operations/stream.ts';
export {thaw, type ThawReport} from './operations/thaw.ts';
export {verify, type VerifyMessage, type VerifyOptions} from './operations/verify.ts';
export {parseTransaction, type LocatedPlan, type TransactionPlan} from './operations/transaction/plan.ts';
export {transact, type TransactMessage, type TransactRequest} from './operations/transaction/transact.ts';
export {type EventMessage, watchEvents, type WatchedVm, type WatchEventsRequest} from './operations/watch-events.ts';
export type {VmImages} from './operations/vm-images.ts';
export type {VmSockets} from './operations/vm-session.ts';
export {formatAddress, parseAddress, type SocketAddress} from './config/address.ts';
export {QuiesceError, UsageError, CancelledError, type ErrorCode} from './errors.ts';
export {GuestAgent, type AgentInfo, type AgentOptions, type AgentStatus} from './guest-agent/agent.ts';
export {QmpConnection, type QmpOptions} from './qmp/connection.ts';
export {QmpCommandError, QmpDisconnectedError, QmpOutcomeUnknownError, QmpTimeoutError} from './qmp/errors.ts';
export type {QmpCommandName, QmpCommands, QmpEvent, QmpEventName, QmpEvents} from './qmp/schema.ts';
export type {Machine} from './repository/machine.ts';
export type {PointManifest, StoredDisk} from './repository/manifest.ts';
export type {RetentionRules, RetentionVerdict} from './repository/retention.ts';
