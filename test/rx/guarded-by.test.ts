import {EMPTY, lastValueFrom, NEVER, of, Subject, throwError, timer, toArray} from 'rxjs';
import {expect, test} from 'vitest';
import {guardedBy} from '../../src/rx/guarded-by.ts';

test('passes on what the source has, and ends with it though the watchers go on', async () => {
	const values = lastValueFrom(of(1, 2).pipe(guardedBy(NEVER, NEVER), toArray()));
	await expect(values).resolves.toEqual([1, 2]);
});

test('a source that has nothing ends too', async () => {
	await expect(lastValueFrom(EMPTY.pipe(guardedBy(NEVER), toArray()))).resolves.toEqual([]);
});

test('values that are undefined are values', async () => {
	await expect(lastValueFrom(of(undefined, 1).pipe(guardedBy(NEVER), toArray()))).resolves.toEqual([undefined, 1]);
});

test('a watcher that ends is no longer needed, and one that fails ends the whole', async () => {
	const failing = lastValueFrom(
		NEVER.pipe(
			guardedBy(
				EMPTY,
				throwError(() => new Error('disk full')),
			),
		),
	);
	await expect(failing).rejects.toThrow('disk full');
});

test('a source that fails is not outlived by its watchers', async () => {
	const watcher = new Subject<never>();
	const failing = lastValueFrom(throwError(() => new Error('no such job')).pipe(guardedBy(watcher)));
	await expect(failing).rejects.toThrow('no such job');
	expect(watcher.observed).toBe(false);
});

test('watchers are left when the source has ended or nobody listens', async () => {
	const watcher = new Subject<never>();
	await lastValueFrom(timer(1).pipe(guardedBy(watcher)));
	expect(watcher.observed).toBe(false);

	const subscription = NEVER.pipe(guardedBy(watcher)).subscribe({error: () => undefined});
	expect(watcher.observed).toBe(true);
	subscription.unsubscribe();
	expect(watcher.observed).toBe(false);
});
