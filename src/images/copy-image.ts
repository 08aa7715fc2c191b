import fs from 'node:fs/promises';
import path from 'node:path';
import {concat, concatMap, defer, ignoreElements, type Observable, of} from 'rxjs';
import {QuiesceError, UsageError} from '../errors.ts';
import {cloneFile} from './clone-file.ts';
import {convertImage} from './convert-image.ts';
import {systemReason} from './plain-file.ts';
import {checkImage, type Compression, imageInfo, type ImageFormat} from './qemu-img.ts';
import {runTool} from './run-tool.ts';
import {stripBitmaps} from './strip-bitmaps.ts';

/**
 * How an image that nobody writes to is copied. `reflink`: by the file system, which shares its data. `convert`: what it
 * stores, by `qemu-img`. `command`: by a program of the operator's.
 */
export type CopyBy = 'reflink' | 'convert' | 'command';

export interface ImageCopy {
	readonly by: CopyBy;
	readonly source: string;
	readonly sourceFormat: ImageFormat;
	/** A qcow2 file that is to stand alone; it must not exist. */
	readonly target: string;
	readonly compression: Compression;
	/** For `command`. */
	readonly command?: readonly string[] | undefined;
	/** Ends the copy, which fails with its reason. */
	readonly signal: AbortSignal;
}

const PLACEHOLDERS = ['{source}', '{target}'];

/** Words apart by blanks. No shell reads them: a name with blanks in it stays one argument. */
export function parseCopyCommand(text: string): readonly string[] {
	const words = text.split(/\s+/).filter(word => word !== '');
	const missing = PLACEHOLDERS.filter(placeholder => !words.slice(1).some(word => word.includes(placeholder)));
	if (missing.length === 0) return words;
	throw new UsageError(`--copy-command: '${text}' lacks ${missing.join(' and ')}`, {
		hint: "Such as --copy-command 'rsync -a {source} {target}'. No shell reads it.",
	});
}

/** The file that {@link holdImage} leaves for {@link finishImage}; not used by `convert`. */
function heldFile({target}: Pick<ImageCopy, 'target'>): string {
	return path.join(path.dirname(target), `.${path.basename(target)}.held`);
}

/**
 * The part for which the source has to hold still, as short as can be. Cold. Emits the part that is done, from 0 to 1, as
 * far as that is known.
 */
export function holdImage(copy: ImageCopy): Observable<number> {
	const {by, source, sourceFormat, target, compression, signal} = copy;
	switch (by) {
		case 'reflink':
			return concat(defer(() => cloneFile(source, heldFile(copy))).pipe(ignoreElements()), of(1));
		case 'convert':
			return convertImage({
				...{source, sourceFormat, target, compression, signal},
				...{targetKind: 'new-file', targetFormat: 'qcow2'},
			});
		case 'command':
			return concat(defer(() => runCommand(copy)).pipe(ignoreElements()), of(1));
	}
}

async function runCommand(copy: ImageCopy): Promise<void> {
	const held = heldFile(copy);
	const [tool = '', ...args] = (copy.command ?? []).map(word =>
		word.replaceAll('{source}', () => copy.source).replaceAll('{target}', () => held),
	);
	await runTool({tool, args, object: copy.source, signal: copy.signal, whenKilled: 'die'});
	const stat = await fs.lstat(held).catch((error: unknown) => {
		throw new QuiesceError('FAILED', `${tool} has made no copy of ${copy.source}: ${systemReason(error)}`, {
			cause: error,
			hint: 'It has to write the file that stands in the place of {target}.',
		});
	});
	if (!stat.isFile()) throw new QuiesceError('FAILED', `${tool} has made something else than a file of ${copy.source}`);
	await fs.chmod(held, 0o600);
}

/** Makes the image of what was held, and leaves nothing else. `sizeBytes` is what the guest sees of it. */
export function finishImage(copy: ImageCopy, sizeBytes: number): Observable<never> {
	const {by, sourceFormat, target, compression, signal} = copy;
	const held = heldFile(copy);
	const made$ = defer(() => {
		if (by === 'convert') return of(undefined);
		if (sourceFormat === 'qcow2')
			return defer(() => stripBitmaps(held, signal)).pipe(concatMap(() => fs.rename(held, target)));
		const convert$ = convertImage({
			...{source: held, sourceFormat, target, signal},
			...(by === 'reflink' ? {offload: true} : {compression}),
			...{targetKind: 'new-file', targetFormat: 'qcow2'},
		});
		return concat(
			convert$,
			defer(() => fs.rm(held)),
		);
	});
	return concat(
		made$,
		defer(() => requireSound(copy, sizeBytes)),
	).pipe(ignoreElements());
}

/** A copy that is of something else, or not whole, shows here at the latest. */
async function requireSound({by, source, target, signal}: ImageCopy, sizeBytes: number): Promise<void> {
	const {virtualSizeBytes, backingFile} = await imageInfo(target, 'qcow2', signal);
	const problems = [
		...(virtualSizeBytes === sizeBytes ? [] : [`it holds ${virtualSizeBytes} bytes, not ${sizeBytes}`]),
		...(backingFile === null ? [] : [`it lies on ${backingFile}`]),
		...(by === 'command' ? (await checkImage(target, 'qcow2', signal)).problems : []),
	];
	if (problems.length === 0) return;
	throw new QuiesceError('FAILED', `the copy of ${source} is not what it should be: ${problems.join('; ')}`);
}
