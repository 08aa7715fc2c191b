import {lastValueFrom, type Observable, tap, toArray} from 'rxjs';

/** All messages of an operation. What `onMessage` does is waited for too. */
export async function collect<Message>(
	messages$: Observable<Message>,
	onMessage: (message: Message) => unknown = () => undefined,
): Promise<Message[]> {
	const acts: unknown[] = [];
	try {
		return await lastValueFrom(
			messages$.pipe(
				tap(message => {
					acts.push(onMessage(message));
				}),
				toArray(),
			),
		);
	} finally {
		await Promise.all(acts);
	}
}
