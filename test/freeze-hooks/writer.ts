import type {LineClient} from './line-client.ts';
import type {Server} from './applications/application.ts';

/** Commits 1, 2, 3, … one after another. */
export class Writer {
	/** What was sent to be committed. */
	issued = 0;
	/** What the server has said is committed. */
	committed = 0;
	/** The longest time between two commits, in milliseconds, the one that is waited for included. */
	longestMs = 0;
	readonly #server: Server;
	readonly #client: LineClient;
	#isToEnd = false;
	#loop: Promise<void> | undefined;

	constructor(server: Server, client: LineClient) {
		this.#server = server;
		this.#client = client;
	}

	async begin(): Promise<void> {
		await this.#expect(this.#server.make, 'made');
		this.#loop = this.#write();
		this.#loop.catch(() => undefined);
	}

	/** Until `n` more have been committed. */
	async more(n: number): Promise<void> {
		const until = this.committed + n;
		while (this.committed < until) {
			await Promise.race([this.#loop, new Promise(resolve => setTimeout(resolve, 5))]);
		}
	}

	async end(): Promise<void> {
		this.#isToEnd = true;
		await this.#loop;
	}

	async #write(): Promise<void> {
		let last = performance.now();
		while (!this.#isToEnd) {
			this.issued++;
			await this.#expect(this.#server.write(this.issued), String(this.issued));
			this.committed = this.issued;
			const now = performance.now();
			this.longestMs = Math.max(this.longestMs, now - last);
			last = now;
		}
	}

	async #expect(question: string, answer: string): Promise<void> {
		const said = await this.#client.ask(question);
		if (said !== answer) throw new Error(`${question}: ${said}`);
	}
}
