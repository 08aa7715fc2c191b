import {isLocalFile, kindOfDriver, kindOfOption} from './block-drivers.ts';
import {type CommandLineOption, parseOption} from './command-line.ts';
import type {ImageOption} from './image-options.ts';
import {dropItems, editOption, setItem, textAt} from './option-items.ts';
import type {OptionItem} from './option-string.ts';

/** A file that holds a whole disk: nothing below it, not encrypted. */
export interface WholeImage {
	readonly path: string;
	readonly format: string;
}

/**
 * `options` with the image replaced. What belongs to the old file alone goes: backing and data files, encryption, the
 * part of a file that was the disk, and with the format the options of the old one. Undefined if the image is written
 * in a way that is not understood. `oldFormat` is what QEMU found where the option does not say.
 */
export function replaceImage(
	options: readonly CommandLineOption[],
	{where}: ImageOption,
	image: WholeImage,
	oldFormat: string,
): CommandLineOption[] | undefined {
	if (where.kind === 'drive') {
		const option = options[where.option];
		const edited = option && replaceInDrive(parseOption(option).items, where.prefix, image, oldFormat);
		return edited && editOption(options, where.option, () => edited);
	}
	const storage = where.nodes.at(-1);
	const [outermost, ...between] = where.nodes.slice(0, -1);
	if (!storage) return undefined;
	if (!outermost) {
		return editOption(options, storage.option, items =>
			image.format === 'raw'
				? replaceStorage(items, storage.prefix, image.path)
				: wrapStorage(items, storage.prefix, image),
		);
	}
	let edited = editOption(options, outermost.option, items => replaceFormat(items, outermost.prefix, image.format));
	for (const {option, prefix} of between)
		edited = editOption(edited, option, items => replaceFormat(items, prefix, 'raw'));
	return editOption(edited, storage.option, items => replaceStorage(items, storage.prefix, image.path));
}

function replaceFormat(items: readonly OptionItem[], prefix: string, format: string): OptionItem[] {
	const keepsFormat = textAt(items, `${prefix}driver`) === format;
	const edited = dropItems(items, prefix, key => {
		if (key === 'file' || key.startsWith('file.')) return false;
		const kind = kindOfOption(key);
		return keepsFormat ? kind === 'content' : kind !== 'generic';
	});
	return setItem(edited, `${prefix}driver`, format);
}

function replaceStorage(items: readonly OptionItem[], prefix: string, path: string): OptionItem[] {
	const wasLocal = isLocalFile(textAt(items, `${prefix}driver`) ?? '');
	const edited = dropItems(items, prefix, key => {
		const kind = kindOfOption(key);
		return key !== 'filename' && kind !== 'generic' && !(wasLocal && kind === 'file');
	});
	return setItem(setItem(edited, `${prefix}driver`, driverFor(path)), `${prefix}filename`, path);
}

/** The guest saw the storage itself; its node becomes the format, under the same name, with a storage inside. */
function wrapStorage(items: readonly OptionItem[], prefix: string, {path, format}: WholeImage): OptionItem[] {
	const stored = replaceStorage(items, prefix, path);
	const moved = stored.map(item => {
		const key = item.key.startsWith(prefix) ? item.key.slice(prefix.length) : undefined;
		const moves = key !== undefined && (key === 'filename' || kindOfOption(key) === 'file');
		return moves ? {...item, key: `${prefix}file.${key}`} : item;
	});
	return setItem(setItem(moved, `${prefix}driver`, format), `${prefix}file.driver`, driverFor(path));
}

/** QEMU opens devices and regular files with different drivers. */
function driverFor(path: string): string {
	return path.startsWith('/dev/') ? 'host_device' : 'file';
}

/** `-drive` has options of its own beside those of the format, which stay; and `file` may be a name or a node. */
function replaceInDrive(
	items: readonly OptionItem[],
	prefix: string,
	{path, format}: WholeImage,
	oldFormat: string,
): OptionItem[] | undefined {
	const formatKey = prefix === '' && textAt(items, 'format') !== undefined ? 'format' : `${prefix}driver`;
	const named = textAt(items, formatKey);
	if (named !== undefined && kindOfDriver(named) === 'storage') return undefined;
	const keepsFormat = (named ?? oldFormat) === format;
	const edited = dropItems(items, prefix, key => {
		const kind = kindOfOption(key);
		return kind === 'content' || (kind === 'format' && !keepsFormat);
	});
	const formatted = setItem(edited, named === undefined && prefix === '' ? 'format' : formatKey, format);
	return replaceFileOfDrive(formatted, prefix, path);
}

function replaceFileOfDrive(items: readonly OptionItem[], prefix: string, path: string): OptionItem[] {
	const inside = `${prefix}file.`;
	const driver = textAt(items, `${inside}driver`);
	const wasLocal = driver === undefined || isLocalFile(driver);
	const edited = dropItems(items, inside, key => {
		const kind = kindOfOption(key);
		return key === 'driver' || (key !== 'filename' && kind !== 'generic' && !(wasLocal && kind === 'file'));
	});
	// A name with a colon before its first slash would be read as a protocol.
	const name = /^[^/]*:/.test(path) ? `./${path}` : path;
	if (prefix === '' && textAt(items, 'file') !== undefined) {
		return setItem(
			dropItems(edited, inside, key => key === 'filename'),
			'file',
			name,
		);
	}
	const filed = setItem(edited, `${inside}filename`, path);
	return setItem(filed, `${inside}driver`, driverFor(path));
}
