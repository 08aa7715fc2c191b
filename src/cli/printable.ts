/**
 * Text from a guest, a monitor or a file, made safe for a terminal: control characters, with which it could move the
 * cursor or recolour what was printed, become visible. Line breaks and tabs become spaces.
 */
export function printable(text: string): string {
	return text
		.replaceAll(/[\t\r\n]+/g, ' ')
		.replaceAll(
			/[\p{Cc}\p{Cf}\u2028\u2029]/gu,
			character => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`,
		);
}
