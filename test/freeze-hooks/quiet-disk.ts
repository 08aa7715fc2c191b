import {mkdir, truncate, writeFile} from 'node:fs/promises';
import {output} from '../guest/command.ts';

const BYTES = 512 << 20;

/** A file system of its own, which is frozen as the agent does it. Whoever makes one unmounts it. */
export class QuietDisk {
	readonly folder: string;
	readonly #image: string;

	private constructor(image: string, folder: string) {
		this.#image = image;
		this.folder = folder;
	}

	static async make(image: string, folder: string): Promise<QuietDisk> {
		await writeFile(image, '');
		await truncate(image, BYTES);
		await output('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', '-E', 'lazy_itable_init=1', image]);
		return QuietDisk.mount(image, folder);
	}

	/** What is on the disk at this moment, as a snapshot of it has it. */
	async copy(image: string): Promise<void> {
		await output('cp', ['--sparse=always', '--reflink=auto', this.#image, image]);
	}

	static async mount(image: string, folder: string): Promise<QuietDisk> {
		await mkdir(folder);
		await output('mount', ['-o', 'loop', image, folder]);
		return new QuietDisk(image, folder);
	}

	async freeze(): Promise<void> {
		await output('fsfreeze', ['-f', this.folder]);
	}

	async thaw(): Promise<void> {
		await output('fsfreeze', ['-u', this.folder]);
	}

	async unmount(): Promise<void> {
		await output('fsfreeze', ['-u', this.folder]).catch(() => undefined);
		await output('umount', ['-l', this.folder]);
	}
}
