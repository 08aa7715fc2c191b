import {mkdir, rm, truncate, writeFile} from 'node:fs/promises';
import {output} from '../../guest/command.ts';

/** The files of `xfs` can share their data. */
export type FileSystem = 'ext4' | 'xfs';

/** XFS takes no less than 300 MiB. */
const BYTES: Record<FileSystem, number> = {ext4: 192 << 20, xfs: 320 << 20};

/** Makes a file system in a file, and the folder that it is mounted on. Returns what takes both away. */
export async function mountNew(kind: FileSystem, image: string, folder: string): Promise<() => Promise<void>> {
	await writeFile(image, '');
	await truncate(image, BYTES[kind]);
	if (kind === 'xfs') await output('mkfs.xfs', ['-q', image]);
	else await output('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', '-E', 'lazy_itable_init=0', image]);
	await mkdir(folder);
	await mount(kind, image, folder);
	return async () => {
		await output('umount', [folder]);
		await rm(image);
	};
}

/** As someone does who has seen the file system fail. */
export async function remount(folder: string): Promise<void> {
	const [device = '', kind] = (await output('findmnt', ['-no', 'SOURCE,FSTYPE', folder])).trim().split(/\s+/);
	const image = (await output('losetup', ['-nO', 'BACK-FILE', device])).trim();
	await output('umount', [folder]);
	// What was written last may be torn, as after a power cut. XFS puts itself right when it is mounted.
	if (kind !== 'xfs') await output('e2fsck', ['-fy', image]).catch(() => undefined);
	await mount(kind === 'xfs' ? 'xfs' : 'ext4', image, folder);
}

async function mount(kind: FileSystem, image: string, folder: string): Promise<void> {
	await output('mount', ['-o', kind === 'ext4' ? 'loop,errors=remount-ro' : 'loop', image, folder]);
}
