/** One write of the guest. */
export interface Sample {
	/** Seconds from the cut. */
	readonly at: number;
	readonly tookMs: number;
}

/** What `writer raw-samples` prints. `zero` is the cut, in seconds of the guest's clock. */
export function parseSamples(text: string, zero: number): Sample[] {
	return text
		.split('\n')
		.map(line => line.split(' ').map(Number))
		.map(([start = NaN, took = NaN]) => ({at: start / 1e6 - zero, tookMs: took / 1e3}));
}

/** The least value that at least so many per cent of all are not above. */
export function percentile(samples: readonly Sample[], percent: number): number {
	const sorted = samples.map(({tookMs}) => tookMs).sort((a, b) => a - b);
	return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] ?? NaN;
}

export interface Span {
	readonly from: number;
	readonly to: number;
}

export function within(samples: readonly Sample[], {from, to}: Span): Sample[] {
	return samples.filter(({at}) => at >= from && at < to);
}

/** For each bin of the span, how long the slowest write took that was under way in it; undefined where there was none. */
export function worstByBin(samples: readonly Sample[], {from, to}: Span, binSeconds: number): (number | undefined)[] {
	const worst = new Array<number | undefined>(Math.round((to - from) / binSeconds)).fill(undefined);
	for (const {at, tookMs} of samples) {
		const first = Math.max(0, Math.floor((at - from) / binSeconds));
		const last = Math.min(worst.length - 1, Math.floor((at + tookMs / 1e3 - from) / binSeconds));
		for (let bin = first; bin <= last; bin++) worst[bin] = Math.max(worst[bin] ?? 0, tookMs);
	}
	return worst;
}
