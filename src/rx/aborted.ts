import {Observable} from 'rxjs';

/** Never emits; fails with the signal's reason when it is aborted, or at once if it has been. Leaves no listener behind. */
export function aborted(signal: AbortSignal): Observable<never> {
	return new Observable(subscriber => {
		const onAbort = (): void => {
			subscriber.error(signal.reason);
		};
		if (signal.aborted) {
			onAbort();
			return;
		}
		signal.addEventListener('abort', onAbort, {once: true});
		subscriber.add(() => {
			signal.removeEventListener('abort', onAbort);
		});
	});
}
