import {mkdir, rm, statfs, truncate, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {output} from '../guest/command.ts';

const REPOSITORY_BYTES = 24 * 2 ** 30;
const VM_BYTES = 2 ** 30;

/** A file system of its own for the repositories, whose files can share data and which can be filled up. Needs root. */
export class RepositoryDisk implements AsyncDisposable {
	readonly folder: string;
	readonly #ballast: string;

	private constructor(folder: string) {
		this.folder = folder;
		this.#ballast = join(folder, 'ballast');
	}

	static async mount(folder: string): Promise<RepositoryDisk> {
		const image = `${folder}.image`;
		await writeFile(image, '');
		await truncate(image, REPOSITORY_BYTES);
		await output('mkfs.xfs', ['-q', image]);
		await mkdir(folder);
		await output('mount', ['-o', 'loop,discard', image, folder]);
		return new RepositoryDisk(folder);
	}

	/** But for so much, in bytes. */
	async fill(left: number): Promise<void> {
		for (;;) {
			const {bavail, bsize} = await statfs(this.folder);
			const bytes = bavail * bsize - left;
			if (bytes <= 0) return;
			try {
				await output('fallocate', ['-l', String(bytes), this.#ballast]);
				return;
			} catch (error) {
				// Whoever is at work there has taken some meanwhile.
				if ((await statfs(this.folder)).bavail >= bavail) throw error;
			}
		}
	}

	async empty(): Promise<void> {
		await rm(this.#ballast, {force: true});
	}

	async [Symbol.asyncDispose](): Promise<void> {
		// Whoever still has a file open there is killed with all else.
		await output('umount', ['-l', this.folder]);
	}
}

/** In memory: what the guest writes should not wait for the host's own disk. */
export class MemoryDisk implements AsyncDisposable {
	readonly folder: string;

	private constructor(folder: string) {
		this.folder = folder;
	}

	static async mount(folder: string): Promise<MemoryDisk> {
		await mkdir(folder);
		await output('mount', ['-t', 'tmpfs', '-o', `size=${VM_BYTES}`, 'tmpfs', folder]);
		return new MemoryDisk(folder);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await output('umount', ['-l', this.folder]);
	}
}
