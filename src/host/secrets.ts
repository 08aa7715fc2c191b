import {type OptionItem, parseOptionString, printOptionString} from './option-string.ts';

const REDACTED = 'REDACTED';

/** Those whose argument is an option string, and may hold a secret. Others, such as `-append`, are free text. */
const WITH_OPTIONS = new Set(
	'audiodev blockdev chardev device display drive iscsi machine netdev nic object spice vnc'.split(' '),
);

/** Those whose argument is the image itself, perhaps a URL. */
const WITH_IMAGE = new Set([undefined, ...'cdrom fda fdb hda hdb hdc hdd mtdblock pflash sd'.split(' ')]);

/** The argument of the option `name`, or an image that stands alone, with `REDACTED` for each secret in it. */
export function redactArgument(name: string | undefined, text: string, impliedKey: string | undefined): string {
	if (WITH_IMAGE.has(name)) return redactImage(text);
	if (name === undefined || !WITH_OPTIONS.has(name)) return text;
	const {syntax, items} = parseOptionString(text, impliedKey);
	if (syntax === 'json') return redactJson(text, name);
	return printOptionString({syntax, items: items.map(item => redactItem(item, name))});
}

function redactItem(item: OptionItem, option: string): OptionItem {
	if (typeof item.value !== 'string' || item.form === 'flag') return item;
	const value = isSecret(item.key, item.value, option) ? REDACTED : redactImage(item.value);
	return value === item.value ? item : {...item, value};
}

function isSecret(key: string, value: string, option: string): boolean {
	switch (key.slice(key.lastIndexOf('.') + 1)) {
		case 'password':
			// `-vnc …,password=on` only says that one will be set through the monitor.
			return option !== 'vnc' || !['on', 'off', 'yes', 'no'].includes(value);
		case 'cookie':
			return option === 'drive' || option === 'blockdev';
		case 'data':
		case 'key-secret':
			return option === 'object';
		default:
			return false;
	}
}

/** Secrets that image names carry: `json:{…}`, `scheme://user:password@`, iSCSI's `user%password@`, rbd's `:key=`. */
function redactImage(image: string): string {
	if (image.startsWith('json:')) return redactJson(image, 'blockdev');
	if (image.startsWith('rbd:')) return image.replace(/(:key=)(?:[^:\\]|\\.)*/gs, `$1${REDACTED}`);
	return image.replace(/^([a-z+]+:\/\/[^/@:%]*[:%])[^/@]*(?=@)/i, `$1${REDACTED}`);
}

/** Works on the text, so that numbers, order and blanks stay as they are. */
function redactJson(text: string, option: string): string {
	let key: string | undefined;
	return text.replaceAll(
		/("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')(\s*:)?/gs,
		(whole, string: string, colon: string | undefined) => {
			const quote = string.charAt(0);
			const content = string.slice(1, -1);
			if (colon !== undefined) {
				key = unescape(content);
				return whole;
			}
			const value = key !== undefined && isSecret(key, content, option) ? REDACTED : redactImage(content);
			key = undefined;
			return quote + value + quote + whole.slice(string.length);
		},
	);
}

/** The key may be spelt with `\u` escapes. */
function unescape(content: string): string {
	return content.replaceAll(/\\u([0-9a-f]{4})/gi, (_, code: string) => String.fromCharCode(parseInt(code, 16)));
}
