/**
 * The writes of the guest's `writer mixed`: number k is a function of k alone. `fixtures/guest/writer.c` has the same
 * functions; they are the whole agreement between guest and host.
 */
export const SECTOR_BYTES = 512;
const SECTOR_WORDS = SECTOR_BYTES / 4;
const MAGIC = 0x5153434d;

/** In sectors; but for `kind`, and the disk, which is an index. */
export interface Write {
	readonly kind: 'data' | 'zero' | 'discard';
	readonly disk: number;
	readonly at: number;
	readonly length: number;
}

const PERCENT_UP_TO = [15, 25, 35, 70, 80, 87, 92, 95, 97, 100];
const [WINDOW, CLUSTER, MOST, TURN] = [8192, 128, 512, 4096];

function draw(k: number, nth: number): number {
	let x = Math.imul(k, 0x9e3779b1) ^ Math.imul(nth, 0x85ebca6b) ^ 0x2545f491;
	x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
	x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
	return (x ^ (x >>> 16)) >>> 0;
}

/** `sizes` are those of the disks, in sectors. */
export function writeOf(k: number, sizes: readonly number[]): Write {
	const disk = draw(k, 0) % sizes.length;
	let sectors = sizes[disk] ?? 0;
	const kind = draw(k, 1) % 100;
	const size = draw(k, 2) % 100;
	const power = PERCENT_UP_TO.findIndex(percent => size < percent);
	let length = Math.min(MOST, 2 ** power + (draw(k, 3) % 2 ** power));
	let at =
		draw(k, 4) % 64 === 0
			? draw(k, 5) % sectors
			: (draw(Math.floor(k / TURN), 8 + disk) % (sectors - WINDOW)) + (draw(k, 6) % WINDOW);
	if (draw(k, 7) % 256 === 0) at = sectors;
	if (kind >= 94) {
		length = CLUSTER * (1 + (length % 4));
		sectors -= sectors % CLUSTER;
		at -= at % CLUSTER;
	}
	return {
		kind: kind < 84 ? 'data' : kind < 94 ? 'zero' : 'discard',
		...{disk, length, at: Math.min(at, sectors - length)},
	};
}

/** What a sector holds: the number of the write that it is from, or one of these. */
export const [ZEROES, UNKNOWN] = [-1, -2];

/** Which write a sector is from, by every byte of it. */
export function identifySector(words: Uint32Array, from: number, disk: number, sector: number): number {
	const k = words[from + 1]!;
	if (words[from] !== MAGIC) return isZero(words, from) ? ZEROES : UNKNOWN;
	if (words[from + 2] !== disk || words[from + 3] !== sector) return UNKNOWN;
	const [first, step] = bodyOf(k, disk, sector);
	let x = first;
	for (let index = 4; index < SECTOR_WORDS; index++) {
		if (words[from + index] !== x) return UNKNOWN;
		x = (x + step) >>> 0;
	}
	return k;
}

/** What the guest's writer puts there, for those who write without it. */
export function sectorsOf(k: number, {disk, at, length}: Write): Buffer {
	const words = new Uint32Array(length * SECTOR_WORDS);
	for (let nth = 0; nth < length; nth++) {
		const from = nth * SECTOR_WORDS;
		words.set([MAGIC, k, disk, at + nth], from);
		const [first, step] = bodyOf(k, disk, at + nth);
		let x = first;
		for (let index = 4; index < SECTOR_WORDS; index++) {
			words[from + index] = x;
			x = (x + step) >>> 0;
		}
	}
	return Buffer.from(words.buffer);
}

/** The first word after the head of a sector, and what each one is more than the one before. */
function bodyOf(k: number, disk: number, sector: number): [first: number, step: number] {
	return [draw(k ^ Math.imul(sector, 0xc2b2ae35), disk), (k & 3) === 0 ? 0 : 0x9e3779b1];
}

function isZero(words: Uint32Array, from: number): boolean {
	for (let index = from; index < from + SECTOR_WORDS; index++) if (words[index] !== 0) return false;
	return true;
}
