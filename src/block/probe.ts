import type {QmpSchema} from '../qmp/introspection.ts';
import type {QmpVersionInfo} from '../qmp/schema.ts';

export interface Capability {
	readonly name: string;
	readonly available: boolean;
	/** The QEMU release that brought it. */
	readonly since: string;
	/** What it is for. */
	readonly note: string;
}

interface Probe {
	readonly since: string;
	readonly note: string;
	/** Without it the version decides, because the schema does not show the difference. */
	readonly probe?: (schema: QmpSchema) => boolean;
}

const PROBES = {
	'transaction-backup': {
		since: '2.3',
		note: 'all disks of a point are cut at one instant',
		probe: schema => schema.enumHas('transaction', ['actions', 'type'], 'blockdev-backup'),
	},
	'transaction-bitmaps': {
		since: '4.2',
		note: 'bitmaps begin at the instant of the cut',
		probe: schema =>
			['add', 'merge', 'remove'].every(verb =>
				schema.enumHas('transaction', ['actions', 'type'], `block-dirty-bitmap-${verb}`),
			),
	},
	'backup-bitmap-mode': {
		since: '4.2',
		note: 'an increment leaves its bitmap as it was',
		probe: schema => schema.hasArgument('blockdev-backup', 'bitmap-mode'),
	},
	'block-export': {
		since: '5.2',
		note: 'disks and points are served over NBD',
		probe: schema => schema.hasCommand('block-export-add'),
	},
	'yank': {
		since: '6.0',
		note: 'a dead target is dropped at once',
		probe: schema => schema.hasCommand('yank'),
	},
	'background-snapshot': {
		since: '6.0',
		note: 'memory is saved while the guest runs',
		probe: schema => schema.enumHas('migrate-set-capabilities', ['capabilities', 'capability'], 'background-snapshot'),
	},
	'blockdev-reopen': {
		since: '6.1',
		note: 'a chain is changed without a job',
		probe: schema => schema.hasCommand('blockdev-reopen'),
	},
	'copy-before-write': {
		since: '6.2',
		note: 'old data goes to scratch when it is overwritten',
		probe: schema => schema.enumHas('blockdev-add', ['driver'], 'copy-before-write'),
	},
	'snapshot-access': {
		since: '7.0',
		note: 'a point is read while the guest writes on',
		probe: schema => schema.enumHas('blockdev-add', ['driver'], 'snapshot-access'),
	},
	'copy-before-write-bitmap': {
		since: '7.0',
		note: 'scratch holds only what an increment needs',
		probe: schema => schema.hasArgument('blockdev-add', '+copy-before-write', 'bitmap'),
	},
	'on-cbw-error': {
		since: '7.1',
		note: 'full scratch breaks the backup, not the guest',
		probe: schema => schema.hasArgument('blockdev-add', '+copy-before-write', 'on-cbw-error'),
	},
	'cbw-timeout': {
		since: '7.1',
		note: 'stuck scratch breaks the backup, not the guest',
		probe: schema => schema.hasArgument('blockdev-add', '+copy-before-write', 'cbw-timeout'),
	},
	'export-bitmap-of-node': {
		since: '7.1',
		note: 'an export shows a bitmap of another node',
		probe: schema => schema.hasArgument('block-export-add', '+nbd', 'bitmaps', 'node'),
	},
	'migrate-to-file': {
		since: '8.2',
		note: 'memory is saved to a file by QEMU itself',
		probe: schema => schema.enumHas('migrate', ['channels', 'addr', 'transport'], 'file'),
	},
	'mapped-ram': {
		since: '9.0',
		note: 'a memory file is no larger than the memory',
		probe: schema => schema.enumHas('migrate-set-capabilities', ['capabilities', 'capability'], 'mapped-ram'),
	},
	'pull-with-iothreads': {
		since: '9.0',
		note: 'nodes and exports are added above running disks that have I/O threads; before, QEMU may abort',
	},
	'backup-discard-source': {
		since: '9.1',
		note: 'scratch shrinks as it is read',
		probe: schema => schema.hasArgument('blockdev-backup', 'discard-source'),
	},
	'snapshot-access-large-reads': {
		since: '10.0',
		note: 'a point is read in large pieces; before, such a read can mix in what was written since',
	},
	'backup-on-cbw-error': {
		since: '10.1',
		note: 'a failing target breaks a push backup, not the guest',
		probe: schema => schema.hasArgument('blockdev-backup', 'on-cbw-error'),
	},
	'node-children': {
		since: '10.1',
		note: 'the block graph is read without a debugging command',
		probe: schema => schema.hasReturn('query-named-block-nodes', 'children'),
	},
	'stream-manual-dismiss': {
		since: '11.1',
		note: 'a concluded block-stream job can be looked at; before, that crashes QEMU',
	},
} satisfies Record<string, Probe>;

export type CapabilityName = keyof typeof PROBES;

/** What this QEMU can do, oldest first. */
export type Capabilities = Readonly<Record<CapabilityName, Capability>>;

export function capabilitiesOf(schema: QmpSchema, version: QmpVersionInfo): Capabilities {
	const entries = Object.entries<Probe>(PROBES).map(([name, {since, note, probe}]) => {
		const available = probe ? probe(schema) : isAtLeast(version, since);
		return [name, {name, available, since, note}];
	});
	return Object.fromEntries(entries) as Capabilities;
}

function isAtLeast({qemu}: QmpVersionInfo, release: string): boolean {
	const [major = 0, minor = 0] = release.split('.').map(Number);
	return qemu.major > major || (qemu.major === major && qemu.minor >= minor);
}
