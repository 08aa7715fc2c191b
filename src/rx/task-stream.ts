import {Observable} from 'rxjs';

/**
 * An asynchronous function as a cold Observable: each subscription runs `task` once. Aborting `signal` is passed on to
 * the task, and the stream ends only when the task has, with what the task threw. Unsubscribing aborts the task too, but
 * nobody waits for its end or hears of its errors.
 */
export function streamTask<Message>(
	signal: AbortSignal | undefined,
	task: (emit: (message: Message) => void, signal: AbortSignal) => Promise<void>,
): Observable<Message> {
	return new Observable(subscriber => {
		const abandoned = new AbortController();
		const emit = (message: Message): void => {
			subscriber.next(message);
		};
		task(emit, signal ? AbortSignal.any([signal, abandoned.signal]) : abandoned.signal).then(
			() => {
				subscriber.complete();
			},
			(error: unknown) => {
				subscriber.error(error);
			},
		);
		return () => {
			abandoned.abort();
		};
	});
}
