import {setTimeout as delay} from 'node:timers/promises';
import {onTestFinished} from 'vitest';
import type {VmSockets} from '../../src/operations/vm-session.ts';
import {type AgentCommand, FakeAgent, usual} from '../support/fake-agent.ts';
import {WrittenVm} from './written-vm.ts';

/** A VM whose disks are written to all the time, but while its guest is frozen. */
export class WritingVm {
	readonly written: WrittenVm;
	/** What the disks held when the guest was frozen last. */
	held: ReadonlyMap<string, Buffer> = new Map();
	/** Done once the guest is frozen, and before the agent says so; the same before it says that it is thawed. */
	onFrozen: () => Promise<unknown> = () => Promise.resolve();
	onThaw: () => Promise<unknown> = () => Promise.resolve();
	#agent: FakeAgent | undefined;
	#writing: Promise<void> = Promise.resolve();
	#mayWrite = false;

	constructor(written: WrittenVm) {
		this.written = written;
	}

	get sockets(): VmSockets & {readonly agent: {readonly unix: string}} {
		return {qmp: {unix: this.written.vm.qmpPath}, agent: this.#agent!.address};
	}

	async start(): Promise<this> {
		await this.written.start();
		// An agent is asked of a VM that runs alone.
		await this.written.execute('cont', {});
		this.#agent = await FakeAgent.listen((command, socket) => {
			void this.#answer(command).then(answer => socket.write(`${JSON.stringify(answer)}\n`));
			return undefined;
		});
		this.write();
		onTestFinished(() => this.pause());
		return this;
	}

	write(): void {
		this.#mayWrite = true;
		this.#writing = (async () => {
			while (this.#mayWrite) {
				for (const {name} of this.written.disks) await this.written.writeAround(name, 1);
				// What is tested needs a processor too.
				await delay(20);
			}
		})();
		// It is killed in some tests.
		this.#writing.catch(() => undefined);
	}

	/** Resolves once the last write is done. */
	async pause(): Promise<void> {
		this.#mayWrite = false;
		await this.#writing.catch(() => undefined);
	}

	async #answer({execute}: AgentCommand): Promise<object> {
		if (execute === 'guest-fsfreeze-freeze') {
			await this.pause();
			this.held = new Map([...this.written.contents].map(([disk, content]) => [disk, Buffer.from(content)]));
			await this.onFrozen();
		}
		if (execute === 'guest-fsfreeze-thaw') {
			await this.onThaw();
			this.write();
		}
		return execute in usual ? usual[execute as keyof typeof usual] : {error: {class: 'CommandNotFound', desc: execute}};
	}
}
