import type {BlockGraph} from '../block/graph.ts';
import {backupRefusal, skippedByDefault} from '../block/coverage.ts';
import {runOf} from '../block/names.ts';
import {type Capability, capabilitiesOf} from '../block/probe.ts';
import {readUncoveredDevices, type UncoveredDevice} from '../block/uncovered-devices.ts';
import {asError} from '../errors.ts';
import {GuestAgent} from '../guest-agent/agent.ts';
import type {QmpJobInfo} from '../qmp/schema.ts';
import type {Transcript} from '../qmp/transcript.ts';
import {isQuiesceFailure} from './quiescer.ts';
import {openVm, type VmSockets} from './vm-session.ts';

export type AgentReport =
	| {readonly state: 'not named'}
	| {readonly state: 'unreachable'; readonly reason: string}
	/** A frozen agent disables most of its commands, so only a thawed one tells whether it can freeze. */
	| {readonly state: 'frozen'; readonly version: string}
	| {readonly state: 'thawed'; readonly version: string; readonly canFreeze: boolean};

export interface JobReport {
	readonly id: string;
	readonly type: string;
	readonly status: QmpJobInfo['status'];
	readonly doneBytes: number;
	readonly totalBytes: number;
	/** The run of ours that it belongs to, or undefined for another program's. */
	readonly run: string | undefined;
}

/** What there is to know of a VM before it is backed up. */
export interface VmReport {
	readonly name: string;
	readonly uuid: string | undefined;
	readonly qemu: {readonly version: string; readonly package: string};
	readonly status: string;
	readonly disks: BlockGraph['disks'];
	/** By disk: why it cannot be backed up, or is not by default. */
	readonly leftOut: ReadonlyMap<string, string>;
	readonly jobs: readonly JobReport[];
	readonly agent: AgentReport;
	readonly uncovered: readonly UncoveredDevice[];
	readonly capabilities: readonly Capability[];
}

/** Reads and changes nothing, except that it opens the sockets, of which each serves one client at a time. */
export async function inspect(
	sockets: VmSockets,
	options: {signal: AbortSignal; transcript?: Transcript | undefined},
): Promise<VmReport> {
	const vm = await openVm(sockets, options);
	try {
		const [graph, jobs, uncovered, agent] = await Promise.all([
			vm.readGraph(),
			vm.qmp.execute('query-jobs'),
			readUncoveredDevices(vm.qmp),
			inspectAgent(sockets, vm.running, options),
		]);
		const reasons = graph.disks.flatMap((disk): [string, string][] => {
			const reason = skippedByDefault(disk) ?? backupRefusal(disk);
			return reason === undefined ? [] : [[disk.name, reason]];
		});
		return {
			name: vm.name,
			uuid: vm.uuid,
			qemu: {version: vm.version, package: vm.qmp.version.package},
			status: vm.status,
			disks: graph.disks,
			leftOut: new Map(reasons),
			jobs: jobs.map(reportOfJob),
			agent,
			uncovered,
			capabilities: Object.values(capabilitiesOf(vm.schema, vm.qmp.version)),
		};
	} finally {
		await vm.close();
	}
}

/** What the agent says of itself. Opens its socket, and nothing more. */
export async function inspectAgent(
	{agent: address}: VmSockets,
	running: boolean,
	{signal, transcript}: {signal: AbortSignal; transcript?: Transcript | undefined},
): Promise<AgentReport> {
	if (!address) return {state: 'not named'};
	if (!running) return {state: 'unreachable', reason: 'the VM does not run'};
	let agent: GuestAgent | undefined;
	try {
		agent = await GuestAgent.open(address, {signal, record: transcript?.of('agent')});
		const [{version, commands}, state] = [await agent.info(), await agent.status()];
		return state === 'frozen' ? {state, version} : {state, version, canFreeze: commands.has('guest-fsfreeze-freeze')};
	} catch (error) {
		if (!isQuiesceFailure(error)) throw error;
		return {state: 'unreachable', reason: asError(error).message};
	} finally {
		agent?.close();
	}
}

export function reportOfJob(job: QmpJobInfo): JobReport {
	return {
		id: job.id,
		type: job.type,
		status: job.status,
		doneBytes: job['current-progress'],
		totalBytes: job['total-progress'],
		run: runOf(job.id),
	};
}
