import {performance} from 'node:perf_hooks';
import {QuiesceError, UsageError} from '../errors.ts';
import type {Consistency, GroupRecord} from '../repository/manifest.ts';
import {Rendezvous} from '../rx/rendezvous.ts';

/**
 * How long a VM that is frozen waits for the others to be so, or to be cut: less than a freeze may be held, so that it is
 * said who was missing.
 */
export const WAIT_MS = 8_000;

/** Why a member ended that had not failed itself. */
export class UndoneError extends QuiesceError {
	constructor(failed: string, cause: unknown) {
		super('FAILED', `undone, since ${failed} failed`, {cause});
	}
}

/**
 * What a run does in step with the other VMs of its group. Each wait fails as soon as one of them has failed; each is for
 * all of them, so none may be left out.
 */
export interface GroupMember {
	/** The VM's lock is held: lets the next VM's run begin. Throws if two are of one name. */
	holds(vm: string): void;
	/**
	 * All that takes its time is done, and nothing frozen: tells the others the folder in which the result is going to be.
	 * Returns those of all; null where there is no group.
	 */
	announce(folder: string): Promise<AnnouncedGroup | null>;
	/** All is made ready, and nothing frozen. `point` is what the group's record is to call it. */
	readyToFreeze(point: string): Promise<void>;
	/** The guest is frozen, if it is to be. Bounded. */
	readyToCut(): Promise<void>;
	/** Takes the time of the cut, between {@link readyToCut} and {@link allCut}. */
	timed<Value>(cut: () => Promise<Value>): Promise<Value>;
	/** The guest may be thawed. Bounded. */
	allCut(): Promise<void>;
	/** The guest is thawed, and nothing copied. Returns what there is to say of the cuts; null where there is no group. */
	record(consistency: Consistency): Promise<GroupRecord | null>;
	/** Nothing is left to be done but to let the point appear. */
	readyToAppear(): Promise<void>;
}

/** Who is in a group, before anything is cut. */
export interface AnnouncedGroup {
	readonly name: string;
	readonly members: readonly {readonly vm: string; readonly folder: string}[];
}

/** For a run that is not one of a group. */
export const ALONE: GroupMember = {
	holds: () => undefined,
	announce: () => Promise.resolve(null),
	readyToFreeze: () => Promise.resolve(),
	readyToCut: () => Promise.resolve(),
	timed: cut => cut(),
	allCut: () => Promise.resolve(),
	record: () => Promise.resolve(null),
	readyToAppear: () => Promise.resolve(),
};

interface Progress {
	/** What the VM is called by itself. */
	vm?: string;
	folder?: string;
	point?: string;
	cut?: {readonly began: number; readonly ended: number};
	consistency?: Consistency;
}

/** Runs of one process, a VM each, that are all done or all undone. Members go by what the operator calls them. */
export class Group {
	readonly #name: string;
	readonly #rendezvous: Rendezvous;
	readonly #progress: ReadonlyMap<string, Progress>;
	readonly #turns: ReadonlyMap<string, PromiseWithResolvers<undefined>>;
	readonly #outer: AbortSignal;
	readonly #onAbort = (): void => {
		this.#rendezvous.fail(this.#outer.reason as Error);
	};

	/** `signal` cancels all. Whoever makes a group ends it. */
	constructor(name: string, members: readonly string[], signal: AbortSignal) {
		this.#name = name;
		this.#rendezvous = new Rendezvous(members);
		this.#progress = new Map(members.map(member => [member, {}]));
		this.#turns = new Map(members.map(member => [member, Promise.withResolvers<undefined>()]));
		this.#turns.get(members[0] ?? '')?.resolve(undefined);
		this.#outer = signal;
		signal.addEventListener('abort', this.#onAbort, {once: true});
		if (signal.aborted) this.#onAbort();
	}

	/** Ends all members, with the first failure. */
	get signal(): AbortSignal {
		return this.#rendezvous.signal;
	}

	fail(member: string, error: unknown): void {
		this.#rendezvous.fail(new UndoneError(member, error));
		this.#letBegin();
	}

	end(): void {
		this.#outer.removeEventListener('abort', this.#onAbort);
	}

	/** The members begin one after another, each once the one before holds its VM, so that of two groups one gets all. */
	async turnOf(member: string): Promise<void> {
		await this.#turns.get(member)?.promise;
		this.signal.throwIfAborted();
	}

	member(member: string): GroupMember {
		const progress = this.#progress.get(member) ?? {};
		const arrive = (stage: string): Promise<void> => this.#rendezvous.arrive(member, stage);
		const arriveSoon = (stage: string, what: string): Promise<void> =>
			this.#rendezvous.arrive(member, stage, {
				ms: WAIT_MS,
				late: missing =>
					new QuiesceError('AGENT', `${missing.join(', ')}: not ${what} ${WAIT_MS / 1000} s after ${member} was`, {
						hint: 'The guests are thawed. Look into the freeze hooks of that guest, or leave it out of the group.',
					}),
			});
		return {
			holds: vm => {
				this.#requireUnlike(vm);
				progress.vm = vm;
				this.#letBegin(member);
			},
			announce: async folder => {
				progress.folder = folder;
				await arrive('announced');
				const members = [...this.#progress.values()];
				return {name: this.#name, members: members.map(({vm = '', folder: where = ''}) => ({vm, folder: where}))};
			},
			readyToFreeze: point => {
				progress.point = point;
				return arrive('ready to freeze');
			},
			readyToCut: () => arriveSoon('ready to cut', 'frozen'),
			timed: async cut => {
				const began = performance.now();
				const value = await cut();
				progress.cut = {began, ended: performance.now()};
				return value;
			},
			allCut: () => arriveSoon('cut', 'cut'),
			record: async consistency => {
				progress.consistency = consistency;
				await arrive('thawed');
				return this.#record();
			},
			readyToAppear: () => arrive('ready to appear'),
		};
	}

	#record(): GroupRecord {
		const members = [...this.#progress.values()];
		const first = Math.min(...members.map(({cut}) => cut?.began ?? Infinity));
		const last = Math.max(...members.map(({cut}) => cut?.ended ?? -Infinity));
		return {
			name: this.#name,
			skewSeconds: (last - first) / 1000,
			members: members.map(({vm = '', point = '', consistency = 'crash-consistent', cut}) => ({
				...{vm, point, consistency},
				cutBeganSeconds: ((cut?.began ?? first) - first) / 1000,
				cutEndedSeconds: ((cut?.ended ?? first) - first) / 1000,
			})),
		};
	}

	/** The one after `member`; all where the group has failed. */
	#letBegin(member?: string): void {
		const names = [...this.#turns.keys()];
		const next = member === undefined ? names : names.slice(names.indexOf(member) + 1).slice(0, 1);
		for (const name of next) this.#turns.get(name)?.resolve(undefined);
	}

	#requireUnlike(vm: string): void {
		if (![...this.#progress.values()].some(known => known.vm === vm)) return;
		throw new UsageError(`two VMs of the group are called ${vm}`, {
			hint: 'Their points could not be told apart. Start one of them with another -name.',
		});
	}
}
