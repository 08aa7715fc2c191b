/**
 * The QMP commands and events this program uses, by wire name, as QEMU 7.2 to 11.1 know them. Members that are not
 * read are left out: QEMU adds members in any release, and clients ignore them. A test holds this file against the
 * recorded schemas of each QEMU.
 */
export interface QmpCommands {
	'qmp_capabilities': {arguments: {enable?: string[]}; return: QmpNothing};
	'query-qmp-schema': {arguments: undefined; return: unknown[]};
	'query-version': {arguments: undefined; return: QmpVersionInfo};
	'query-name': {arguments: undefined; return: {name?: string}};
	'query-uuid': {arguments: undefined; return: {UUID: string}};
	'query-status': {arguments: undefined; return: {status: string; running: boolean}};
	/** Bytes. */
	'query-memory-size-summary': {arguments: undefined; return: {'base-memory': number; 'plugged-memory'?: number}};
	'query-chardev': {arguments: undefined; return: QmpChardev[]};
	'query-block': {arguments: undefined; return: QmpBlockBackend[]};
	'query-named-block-nodes': {arguments: {flat?: boolean}; return: QmpBlockNode[]};
	/** Unstable by name, but read-only and the same from 5.2 to 11.1; `children` replaces it from 10.1. */
	'x-debug-query-block-graph': {arguments: undefined; return: QmpDebugGraph};
	'qom-get': {arguments: {path: string; property: string}; return: unknown};
	'qom-set': {arguments: {path: string; property: string; value: unknown}; return: QmpNothing};
	'qom-list': {arguments: {path: string}; return: {name: string; type: string}[]};
	'query-jobs': {arguments: undefined; return: QmpJobInfo[]};
	'job-cancel': {arguments: {id: string}; return: QmpNothing};
	'job-dismiss': {arguments: {id: string}; return: QmpNothing};
	'block-job-set-speed': {arguments: {device: string; speed: number}; return: QmpNothing};
	'job-finalize': {arguments: {id: string}; return: QmpNothing};
	'job-complete': {arguments: {id: string}; return: QmpNothing};
	'job-pause': {arguments: {id: string}; return: QmpNothing};
	'job-resume': {arguments: {id: string}; return: QmpNothing};
	'block-commit': {arguments: QmpBlockCommit; return: QmpNothing};
	'block-stream': {arguments: QmpBlockStream; return: QmpNothing};
	'blockdev-add': {arguments: QmpBlockdevOptions; return: QmpNothing};
	'blockdev-del': {arguments: {'node-name': string}; return: QmpNothing};
	'blockdev-reopen': {arguments: {options: QmpBlockdevOptions[]}; return: QmpNothing};
	'block-export-add': {
		arguments: {
			'type': 'nbd';
			'id': string;
			'node-name': string;
			'name': string;
			'writable': boolean;
			'bitmaps'?: {node: string; name: string}[];
			'allocation-depth'?: boolean;
		};
		return: QmpNothing;
	};
	'nbd-server-start': {
		arguments: {'addr': {type: 'unix'; data: {path: string}}; 'max-connections'?: number};
		return: QmpNothing;
	};
	'nbd-server-stop': {arguments: undefined; return: QmpNothing};
	'block-export-del': {arguments: {id: string; mode?: 'safe' | 'hard'}; return: QmpNothing};
	'query-block-exports': {
		arguments: undefined;
		return: {'id': string; 'node-name': string; 'shutting-down': boolean}[];
	};
	'transaction': {arguments: {actions: QmpTransactionAction[]}; return: QmpNothing};
	'blockdev-snapshot-delete-internal-sync': {
		arguments: {device: string; name?: string};
		return: QmpSnapshotInfo;
	};
	'block-dirty-bitmap-add': {arguments: QmpBitmapAdd; return: QmpNothing};
	'block-dirty-bitmap-merge': {arguments: QmpBitmapMerge; return: QmpNothing};
	'block-dirty-bitmap-disable': {arguments: {node: string; name: string}; return: QmpNothing};
	'block-dirty-bitmap-remove': {arguments: {node: string; name: string}; return: QmpNothing};
	/** Its answer is made for people. */
	'human-monitor-command': {arguments: {'command-line': string}; return: string};
	'query-migrate': {arguments: undefined; return: QmpMigrationInfo};
	'query-migrate-capabilities': {arguments: undefined; return: QmpMigrationCapability[]};
	'migrate-set-capabilities': {arguments: {capabilities: QmpMigrationCapability[]}; return: QmpNothing};
	'query-migrate-parameters': {arguments: undefined; return: QmpMigrationParameters};
	'migrate-set-parameters': {
		arguments: {'max-bandwidth'?: number; 'downtime-limit'?: number};
		return: QmpNothing;
	};
	'migrate': {arguments: {uri: string}; return: QmpNothing};
	'migrate-continue': {arguments: {state: 'pre-switchover'}; return: QmpNothing};
	'migrate_cancel': {arguments: undefined; return: QmpNothing};
	/** Open for `exit-on-error`, which QEMU 9.1 brought. */
	'migrate-incoming': {arguments: {uri: string; [option: string]: unknown}; return: QmpNothing};
	'snapshot-save': {arguments: QmpSnapshotJob; return: QmpNothing};
	'snapshot-load': {arguments: QmpSnapshotJob; return: QmpNothing};
	'stop': {arguments: undefined; return: QmpNothing};
	'cont': {arguments: undefined; return: QmpNothing};
	'quit': {arguments: undefined; return: QmpNothing};
}

/** Commands that only later QEMUs have: `QmpSchema.hasCommand` says which do. */
export interface QmpLaterCommands {
	/** From 10.0. */
	'blockdev-set-active': {arguments: {active: boolean}; return: QmpNothing};
}

/** Commands that QEMU takes past the queue, while its main loop is stuck. Only on a session that has `oob`. */
export interface QmpOutOfBandCommands {
	yank: {arguments: {instances: {'type': 'block-node'; 'node-name': string}[]}; return: QmpNothing};
}

export type QmpNothing = Record<string, never>;

export interface QmpVersionInfo {
	qemu: {major: number; minor: number; micro: number};
	package: string;
}

export interface QmpChardev {
	'label': string;
	/** `disconnected:unix:/path,server=on`, `pty:/dev/pts/3` and the like: made for people. */
	'filename': string;
	/** True while something on the guest's side has the port open. */
	'frontend-open': boolean;
}

/** A device or a named backend: what the guest sees. */
export interface QmpBlockBackend {
	/** The backend's name; empty for `-blockdev` disks. */
	device: string;
	/** The device's id, or its QOM path when it has none. Absent while no device uses the backend. */
	qdev?: string;
	removable: boolean;
	/** Absent for an empty drive. */
	inserted?: QmpInserted;
}

interface QmpInserted {
	/** The root node: often a filter, so never what to back up without looking below it. */
	'node-name'?: string;
	'ro': boolean;
	'drv': string;
	'file': string;
	'encrypted': boolean;
	'image': QmpImage;
}

export interface QmpBlockNode {
	'node-name'?: string;
	'drv': string;
	'ro': boolean;
	/** A path, or `json:{…}` where no path can say it. Never to be opened unseen. */
	'file': string;
	'backing_file'?: string;
	'encrypted': boolean;
	'cache': {'direct': boolean; 'no-flush': boolean};
	'detect_zeroes': 'off' | 'on' | 'unmap';
	'dirty-bitmaps'?: QmpBitmap[];
	/** From 10.1. */
	'children'?: {'child': string; 'node-name': string}[];
	'image': QmpImage;
}

interface QmpImage {
	'filename': string;
	'format': string;
	/** Bytes. */
	'virtual-size': number;
	/** Bytes on the host, where the storage can tell. */
	'actual-size'?: number;
	'cluster-size'?: number;
	'backing-filename'?: string;
	'full-backing-filename'?: string;
	/** The internal ones, where the format has any. */
	'snapshots'?: QmpSnapshotInfo[];
}

export interface QmpSnapshotInfo {
	'id': string;
	'name': string;
	/** Bytes of memory that came with it. */
	'vm-state-size': number;
	'date-sec': number;
	'date-nsec': number;
}

export interface QmpBitmap {
	/** Absent for those QEMU makes for its own use. */
	name?: string;
	/** Dirty bytes. */
	count: number;
	granularity: number;
	recording: boolean;
	busy: boolean;
	persistent: boolean;
	inconsistent?: boolean;
}

export interface QmpDebugGraph {
	nodes: {id: number; type: 'block-backend' | 'block-job' | 'block-driver'; name: string}[];
	edges: {parent: number; child: number; name: string}[];
}

export type QmpJobStatus =
	| 'undefined'
	| 'created'
	| 'running'
	| 'paused'
	| 'ready'
	| 'standby'
	| 'waiting'
	| 'pending'
	| 'aborting'
	| 'concluded'
	| 'null';

export interface QmpJobInfo {
	'id': string;
	'type': string;
	'status': QmpJobStatus;
	/** In units of the job's own, usually bytes; the total may move both ways, and both are 0 when there is nothing to do. */
	'current-progress': number;
	'total-progress': number;
	/** Present on a job that concluded badly. */
	'error'?: string;
}

/** Open by nature: each driver has options of its own. */
export interface QmpBlockdevOptions {
	'driver': string;
	'node-name'?: string;
	'read-only'?: boolean;
	[option: string]: unknown;
}

export type QmpErrorAction = 'report' | 'ignore' | 'enospc' | 'stop';

export interface QmpBlockdevBackup {
	'job-id': string;
	'device': string;
	'target': string;
	'sync': 'full' | 'top' | 'none' | 'bitmap';
	/** On `device`; with `sync: bitmap`. */
	'bitmap'?: string;
	'bitmap-mode'?: 'never' | 'on-success' | 'always';
	'filter-node-name': string;
	'auto-finalize': boolean;
	'auto-dismiss': boolean;
	'on-source-error': QmpErrorAction;
	'on-target-error': QmpErrorAction;
	'compress'?: boolean;
	/** Bytes per second; 0 is no limit. */
	'speed'?: number;
	/** Unstable by name, and the same from 6.0 to 11.1. Bytes. */
	'x-perf'?: {'max-chunk'?: number};
}

export interface QmpBlockCommit {
	'job-id': string;
	/** The node at the top of the disk's chain. */
	'device': string;
	'base-node': string;
	'top-node': string;
	/** What the layer above `top-node` names as its backing file afterwards; refused where there is none above. */
	'backing-file'?: string;
	'filter-node-name': string;
	/** Never false where the job becomes ready: pending, it holds the guest's I/O. */
	'auto-finalize'?: boolean;
	'auto-dismiss': boolean;
	'on-error': QmpErrorAction;
	/** Bytes per second; 0 is no limit. */
	'speed'?: number;
}

export interface QmpBlockStream {
	'job-id': string;
	/** The node that gets the data. */
	'device': string;
	/** Stays beneath; without it nothing does. */
	'base-node'?: string;
	'backing-file'?: string;
	'filter-node-name': string;
	'auto-finalize': boolean;
	'auto-dismiss': boolean;
	'on-error': QmpErrorAction;
	'speed'?: number;
}

export type QmpTransactionAction =
	| {type: 'blockdev-backup'; data: QmpBlockdevBackup}
	| {type: 'blockdev-snapshot'; data: {node: string; overlay: string}}
	/** `device` is a node too. */
	| {type: 'blockdev-snapshot-internal-sync'; data: {device: string; name: string}}
	| {type: 'block-dirty-bitmap-add'; data: QmpBitmapAdd}
	| {type: 'block-dirty-bitmap-merge'; data: QmpBitmapMerge}
	| {type: 'block-dirty-bitmap-remove'; data: {node: string; name: string}};

export interface QmpBitmapAdd {
	node: string;
	name: string;
	granularity?: number;
	persistent?: boolean;
	disabled?: boolean;
}

export interface QmpBitmapMerge {
	node: string;
	target: string;
	bitmaps: {node: string; name: string}[];
}

export interface QmpSnapshotJob {
	'job-id': string;
	'tag': string;
	/** The node that takes RAM and device state. */
	'vmstate': string;
	/** All nodes of which a snapshot is taken. */
	'devices': string[];
}

export interface QmpMigrationCapability {
	capability: string;
	state: boolean;
}

export interface QmpMigrationParameters {
	/** Bytes a second; 0 is no limit. */
	'max-bandwidth'?: number;
	/** Milliseconds. */
	'downtime-limit'?: number;
	/** Text; from 11.x also null. */
	'tls-creds'?: unknown;
	/** From 8.2. */
	'mode'?: string;
}

export interface QmpMigrationInfo {
	/** Absent before the first migration. A word that is not known means that it goes on. */
	'status'?: string;
	/** `normal` and `duplicate` count pages, those in full and those of one repeated byte; the others are bytes. */
	'ram'?: {transferred: number; remaining: number; total: number; normal: number; duplicate: number};
	'error-desc'?: string;
	'blocked-reasons'?: string[];
}

export interface QmpEvents {
	/** Only with the capability `events`. */
	MIGRATION: {status: string};
	STOP: QmpNothing;
	RESUME: QmpNothing;
	JOB_STATUS_CHANGE: {id: string; status: QmpJobStatus};
	/** Before the job is concluded. `device` is the job. */
	BLOCK_JOB_COMPLETED: {device: string; error?: string};
	BLOCK_JOB_CANCELLED: {device: string};
	BLOCK_JOB_ERROR: {device: string; operation: 'read' | 'write'; action: 'ignore' | 'report' | 'stop'};
	BLOCK_EXPORT_DELETED: {id: string};
	SHUTDOWN: {guest: boolean; reason: string};
}

export type QmpCommandName = keyof QmpCommands | keyof QmpLaterCommands;
export type QmpEventName = keyof QmpEvents;

/** What arrives: one member of the union for each event, so that `event` narrows `data`. */
export type QmpEventOf<Events> = {
	[Name in keyof Events & string]: {
		event: Name;
		data: Events[Name];
		/** The host's wall clock, which may step: for reading, never for ordering. */
		timestamp: {seconds: number; microseconds: number};
	};
}[keyof Events & string];

export type QmpEvent = QmpEventOf<QmpEvents>;
