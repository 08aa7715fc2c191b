import type {QmpConnection} from '../qmp/connection.ts';
import {QuiesceError} from '../errors.ts';

/** What of QEMU's migration settings is changed here, as it was found: they belong to all who use this QEMU. */
export interface MigrationSettings {
	/** By name, whether it is on. */
	readonly capabilities: Readonly<Record<string, boolean>>;
	/** Bytes a second; 0 is no limit. */
	readonly maxBandwidth: number;
	readonly downtimeLimitMs: number;
}

const CHANGED = ['events', 'pause-before-switchover', 'background-snapshot'] as const;

type Changed = (typeof CHANGED)[number];

/** They change neither the stream nor how it is sent, or in a way that any reader knows. */
const HARMLESS = new Set<string>([...CHANGED, 'auto-converge', 'dirty-limit', 'late-block-activate', 'xbzrle']);

/**
 * Reads what is to be put back. Throws `REFUSED` where another program has set what would change the stream: it is theirs
 * to take back.
 */
export async function readSettings(qmp: QmpConnection): Promise<MigrationSettings> {
	const [found, parameters] = await Promise.all([
		qmp.execute('query-migrate-capabilities'),
		qmp.execute('query-migrate-parameters'),
	]);
	const strange = found
		.filter(({capability, state}) => state && !HARMLESS.has(capability))
		.map(each => each.capability);
	const {'tls-creds': tls, mode} = parameters;
	if (typeof tls === 'string' && tls !== '') strange.push('tls-creds');
	if (mode !== undefined && mode !== 'normal') strange.push(`mode ${mode}`);
	if (strange.length > 0) {
		throw new QuiesceError('REFUSED', `another program has set up a migration of this VM: ${strange.join(', ')}`, {
			hint: 'Wait until it is done, or take it back with migrate-set-capabilities or migrate-set-parameters.',
		});
	}
	return {
		capabilities: Object.fromEntries(
			found
				.filter(({capability}) => CHANGED.some(changed => changed === capability))
				.map(({capability, state}) => [capability, state]),
		),
		maxBandwidth: parameters['max-bandwidth'] ?? 0,
		downtimeLimitMs: parameters['downtime-limit'] ?? 300,
	};
}

/** Refused while a migration goes on. */
export async function setCapabilities(
	qmp: QmpConnection,
	capabilities: Partial<Readonly<Record<Changed, boolean>>>,
): Promise<void> {
	await qmp.execute('migrate-set-capabilities', {
		capabilities: Object.entries(capabilities).map(([capability, state]) => ({capability, state})),
	});
}

/** As fast as whoever takes it can; the guest is paused once the rest takes no longer than the limit. */
export async function setLimits(
	qmp: QmpConnection,
	{maxBandwidth, downtimeLimitMs}: Omit<MigrationSettings, 'capabilities'>,
): Promise<void> {
	await qmp.execute('migrate-set-parameters', {'max-bandwidth': maxBandwidth, 'downtime-limit': downtimeLimitMs});
}

/** Not while a migration goes on. */
export async function putBack(qmp: QmpConnection, settings: MigrationSettings): Promise<void> {
	await setCapabilities(qmp, settings.capabilities);
	await setLimits(qmp, settings);
}
