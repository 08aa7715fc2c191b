import type {Observable} from 'rxjs';
import type {ChainPace} from './chain-work.ts';
import {mergeIn, type MergeMessage} from './commit.ts';
import {planStreams, type StreamWish} from './plan-stream.ts';
import type {AnyVmRequest} from './with-vm.ts';

export interface StreamRequest extends AnyVmRequest, StreamWish, ChainPace {
	/** Removes the files that the disk lies on no more, once nothing uses them. */
	readonly delete?: boolean | undefined;
	readonly dryRun?: boolean | undefined;
}

/**
 * Pulls what a VM's disks lie on up into their active layers. Cold. Ends with `finished`; failed or aborted before
 * `settling`, the chains are as they were.
 */
export function stream(request: StreamRequest): Observable<MergeMessage> {
	const plan = (vm: Parameters<typeof planStreams>[0]) => Promise.resolve().then(() => planStreams(vm, request));
	return mergeIn(request, 'stream', plan, request.delete === true ? 'remove' : 'keep');
}
