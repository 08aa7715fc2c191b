import {skippedByDefault, warnings as warningsOf} from '../block/coverage.ts';
import {asError, QuiesceError} from '../errors.ts';
import {isLocked} from '../host/lock.ts';
import {requireStorageDaemon} from '../images/storage-daemon.ts';
import {previewRepository} from '../repository/repository.ts';
import {captureMachine} from './capture-machine.ts';
import {checkScratch, checkSpace} from './check-space.ts';
import {type ChosenMethod, chooseMethod, type MethodWishes, scratchFolders} from './choose-method.ts';
import {inspectAgent} from './inspect.ts';
import {isAlive} from './run.ts';
import {type DiskWithMedium, selectDisks} from './select-disks.ts';
import {runsInside} from './unwind.ts';
import {openVm, type VmSession} from './vm-session.ts';
import type {VmRequest} from './with-vm.ts';

export interface DoctorRequest extends Omit<VmRequest, 'tell'>, MethodWishes {
	readonly repository?: string | undefined;
}

/** `bad`: a backup would fail. `poor`: it would go on, and be worth less. */
export interface Finding {
	readonly what: 'monitor' | 'agent' | 'disks' | 'method' | 'scratch' | 'sink' | 'leftovers' | 'repository';
	readonly state: 'good' | 'poor' | 'bad';
	readonly text: string;
	readonly hint?: string | undefined;
}

/**
 * What a backup of this VM would be like, found without taking one. Reads and changes nothing, except that it opens the
 * sockets, of which each serves one client at a time. Throws if the monitor cannot be reached.
 */
export async function doctor(request: DoctorRequest): Promise<readonly Finding[]> {
	const vm = await openVm(request.sockets, request);
	try {
		const graph = await vm.readGraph();
		const [disks, foundDisks] = findDisks(() => selectDisks(graph, {}).disks);
		const {qemu} = await captureMachine(vm, graph);
		const skipped = graph.disks.flatMap(disk => {
			const reason = skippedByDefault(disk);
			return reason === undefined
				? []
				: [{what: 'disks' as const, state: 'good' as const, text: `not ${disk.name}: ${reason}`}];
		});
		return [
			findMonitor(vm),
			await findAgent(request, vm),
			...foundDisks,
			...skipped,
			...(disks.length === 0 ? [] : await findMethod(request, vm, disks, qemu)),
			await findSink(),
			...(await findLeftovers(vm)),
			...(request.repository === undefined ? [] : [await findRepository(request.repository, disks)]),
		];
	} finally {
		await vm.close();
	}
}

function findMonitor({name, version, status, qmp}: VmSession): Finding {
	const text = `${name}, QEMU ${version}, ${status}`;
	if (qmp.hasOutOfBand) return {what: 'monitor', state: 'good', text};
	return {
		what: 'monitor',
		state: 'poor',
		text: `${text}; it takes no out-of-band commands, so a hung target cannot be dropped at once`,
		hint: 'Use a monitor on a socket of its own: -qmp unix:/path,server=on,wait=off.',
	};
}

async function findAgent({sockets, signal, transcript}: DoctorRequest, vm: VmSession): Promise<Finding> {
	const agent = await inspectAgent(sockets, vm.running, {signal, transcript});
	const hint = 'Without a freeze a point is what a power cut would leave.';
	switch (agent.state) {
		case 'thawed':
			return agent.canFreeze
				? {what: 'agent', state: 'good', text: `${agent.version}, can freeze the guest`}
				: {what: 'agent', state: 'poor', text: `${agent.version}, may not freeze the guest`, hint};
		case 'frozen':
			return {what: 'agent', state: 'poor', text: 'the guest is frozen', hint: '`quiesce thaw` thaws it.'};
		case 'unreachable':
			return {what: 'agent', state: 'poor', text: `no answer: ${agent.reason}`, hint};
		case 'not named':
			return {what: 'agent', state: 'poor', text: 'none is known', hint: `Name its socket with --agent. ${hint}`};
	}
}

function findDisks(select: () => readonly DiskWithMedium[]): [readonly DiskWithMedium[], Finding[]] {
	try {
		const disks = select();
		const names = disks.map(({name}) => name).join(', ');
		const poor = disks.flatMap(disk => warningsOf(disk));
		return [
			disks,
			[
				{what: 'disks', state: 'good', text: names},
				...poor.map((text): Finding => ({what: 'disks', state: 'poor', text})),
			],
		];
	} catch (error) {
		return [[], [asBad('disks', error)]];
	}
}

async function findMethod(
	request: DoctorRequest,
	vm: VmSession,
	disks: readonly DiskWithMedium[],
	qemu: Parameters<typeof chooseMethod>[3],
): Promise<Finding[]> {
	try {
		const chosen = await chooseMethod(request, vm, disks, qemu);
		if (chosen.because !== undefined) {
			const text = `push, for which the guest can wait; not fleece: ${chosen.because}`;
			return [{what: 'method', state: 'poor', text}];
		}
		return [{what: 'method', state: 'good', text: chosen.method}, ...(await findScratch(chosen, disks))];
	} catch (error) {
		return [asBad('method', error)];
	}
}

async function findScratch(chosen: ChosenMethod, disks: readonly DiskWithMedium[]): Promise<Finding[]> {
	const folders = scratchFolders(chosen);
	try {
		const poor = await checkScratch(chosen, disks);
		if (poor.length > 0) return poor.map(text => ({what: 'scratch', state: 'poor', text}));
		return folders.length === 0 ? [] : [{what: 'scratch', state: 'good', text: `in ${folders.join(', ')}`}];
	} catch (error) {
		return [asBad('scratch', error)];
	}
}

async function findSink(): Promise<Finding> {
	try {
		return {what: 'sink', state: 'good', text: `daemon: ${await requireStorageDaemon()}`};
	} catch (error) {
		return asBad('sink', error);
	}
}

async function findLeftovers({qmp, lockKey}: VmSession): Promise<Finding[]> {
	const runs = [...(await runsInside(qmp))];
	const alive = await Promise.all(runs.map(run => isAlive(run)));
	const live = runs.find((_, index) => alive[index]);
	if (live !== undefined || (await isLocked(lockKey))) {
		const text = `a run is at work with this VM${live === undefined ? '' : `: ${live}`}`;
		return [{what: 'leftovers', state: 'bad', text, hint: 'Wait until it has ended, or end it.'}];
	}
	if (runs.length === 0) return [{what: 'leftovers', state: 'good', text: 'none'}];
	return runs.map(run => ({
		what: 'leftovers',
		state: 'poor',
		text: `run ${run} was killed, and left things in the VM`,
		hint: '`quiesce recover` undoes them; so does the next backup.',
	}));
}

async function findRepository(folder: string, disks: readonly DiskWithMedium[]): Promise<Finding> {
	try {
		const {path} = await previewRepository(folder);
		const [poor] = await checkSpace(
			path,
			'zstd',
			disks.map(disk => ({disk})),
		);
		return poor === undefined
			? {what: 'repository', state: 'good', text: path}
			: {what: 'repository', state: 'poor', text: poor};
	} catch (error) {
		return asBad('repository', error);
	}
}

function asBad(what: Finding['what'], error: unknown): Finding {
	const hint = error instanceof QuiesceError ? error.hint : undefined;
	return {what, state: 'bad', text: asError(error).message, hint};
}
