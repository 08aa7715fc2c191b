import {objectName} from '../block/names.ts';
import {QuiesceError} from '../errors.ts';
import {createImage} from '../images/qemu-img.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import type {QmpBlockdevOptions} from '../qmp/schema.ts';
import type {Sink, SinkContext, SinkDisk} from './sink.ts';

/**
 * The VM's QEMU opens the images itself: the fastest way, but a file system that hangs under them can hang the guest,
 * and QEMU needs permission to write to them.
 */
export async function openInlineSink({qmp, run, disks, compression}: SinkContext): Promise<Sink> {
	await Promise.all(disks.map(({path, sizeBytes}) => createImage(path, {sizeBytes, compression})));
	for (const disk of disks) {
		await qmp.execute('blockdev-add', imageNode(run, disk, false)).catch((cause: unknown) => {
			if (!(cause instanceof QmpCommandError)) throw cause;
			throw new QuiesceError('REFUSED', `QEMU cannot write ${disk.path}: ${cause.message}`, {
				cause,
				hint: 'With --sink inline QEMU itself opens the repository. The default sink needs no permission for it.',
			});
		});
	}
	return {
		nodeOf: disk => objectName(run, disk, 'target'),
		jobCompresses: compression === 'zstd',
		broken: new Promise<never>(() => undefined),
		settle: async () => {
			for (const disk of disks) {
				// Opening it again read-only flushes it and says whether that worked, which closing does not.
				await qmp.execute('blockdev-reopen', {options: [imageNode(run, disk, true)]});
				await qmp.execute('blockdev-del', {'node-name': objectName(run, disk.name, 'target')});
			}
		},
		abandon: () => Promise.resolve(),
	};
}

function imageNode(run: string, {name, path}: SinkDisk, readOnly: boolean): QmpBlockdevOptions {
	return {
		'driver': 'qcow2',
		'node-name': objectName(run, name, 'target'),
		'read-only': readOnly,
		'detect-zeroes': 'unmap',
		'discard': 'unmap',
		'file': {driver: 'file', filename: path},
	};
}
