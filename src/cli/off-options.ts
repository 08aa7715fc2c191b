import type {Argv} from 'yargs';
import {UsageError} from '../errors.ts';
import type {NamedImage, VmImages} from '../operations/vm-images.ts';
import type {VmSockets} from '../operations/vm-session.ts';
import {type RepositoryOption, repositoryIfAny, repositoryOption} from './repository-options.ts';
import {socketsOf, type VmOptions} from './vm-options.ts';

/** With the repository whose last point names the images. */
export interface OffOptions extends RepositoryOption {
	readonly off: boolean;
	readonly image?: readonly string[] | undefined;
}

/** For commands that also work on a VM which is off. */
export function offOptions<Options>(yargs: Argv<Options>): Argv<Options & OffOptions> {
	return repositoryOption(yargs)
		.option('off', {
			type: 'boolean',
			default: false,
			describe: 'The VM is off: open its images, which its last point names',
			group: 'VM:',
		})
		.option('image', {
			type: 'string',
			array: true,
			nargs: 1,
			describe: 'As --off, with this image of a disk: DISK=PATH, or DISK=PATH,format=raw or qcow2 (may be repeated)',
			group: 'VM:',
		});
}

/** How the VM that the options name is reached: by its sockets, or, if it is off, by its images. */
export async function vmOf(options: VmOptions & OffOptions): Promise<VmSockets | VmImages> {
	const {off, image = []} = options;
	return off || image.length > 0 ? imagesOf(options) : socketsOf(options);
}

/** The images of a VM that is off. */
export function imagesOf(options: VmOptions & Omit<OffOptions, 'off'>): VmImages {
	const {vm, name, qmp, agent, image = []} = options;
	if (qmp !== undefined || agent !== undefined) {
		throw new UsageError('a VM that is off has no sockets: give either --qmp and --agent, or --off and --image');
	}
	const called = name ?? vm;
	if (called === undefined) {
		throw new UsageError('no VM is named', {hint: 'Name it as its points do: quiesce backup NAME --off -r FOLDER.'});
	}
	return {name: called, images: parseImages(image), repository: repositoryIfAny(options)};
}

/** For several VMs at once. */
export function requireOn({off, image = []}: OffOptions): void {
	if (off || image.length > 0) throw new UsageError('--off and --image are for one VM, and not for a group');
}

function parseImages(texts: readonly string[]): NamedImage[] {
	const images = texts.map(parseImage);
	const twice = images.find(({disk}, index) => images.findIndex(other => other.disk === disk) < index);
	if (twice) throw new UsageError(`--image: ${twice.disk} is named twice`);
	return images;
}

function parseImage(text: string): NamedImage {
	const {disk, path, format} = /^(?<disk>[^=]+)=(?<path>.+?)(?:,format=(?<format>[^,]*))?$/s.exec(text)?.groups ?? {};
	if (!disk || !path || (format !== undefined && format !== 'raw' && format !== 'qcow2')) {
		throw new UsageError(`--image: '${text}' is not DISK=PATH, or DISK=PATH,format=raw or qcow2`, {
			hint: 'DISK is what `quiesce inspect` calls the disk while the VM runs, such as vda.',
		});
	}
	return {disk, path, format};
}
