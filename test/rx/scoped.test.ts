import {getEventListeners} from 'node:events';
import {EMPTY, lastValueFrom, NEVER, of, throwError, toArray} from 'rxjs';
import {setTimeout as sleep} from 'node:timers/promises';
import {expect, test} from 'vitest';
import {aborted} from '../../src/rx/aborted.ts';
import {guardedBy} from '../../src/rx/guarded-by.ts';
import {scoped, type Scope} from '../../src/rx/scoped.ts';

function recording(overrides: Partial<Scope<string, number>> = {}) {
	const log: string[] = [];
	const values$ = scoped<string, number>({
		acquire: async () => {
			await sleep(1);
			return 'r';
		},
		use: () => of(1, 2),
		release: async (resource, outcome) => {
			await sleep(5);
			log.push(`${resource} ${outcome}`);
		},
		onLostError: () => {
			log.push('lost');
		},
		...overrides,
	});
	return {log, values$};
}

test('completes only after the release', async () => {
	const {log, values$} = recording();
	await expect(lastValueFrom(values$.pipe(toArray()))).resolves.toEqual([1, 2]);
	expect(log).toEqual(['r completed']);
});

test('fails with the first error, after the release', async () => {
	const {log, values$} = recording({use: () => throwError(() => new Error('disk full'))});
	await expect(lastValueFrom(values$)).rejects.toThrow('disk full');
	expect(log).toEqual(['r failed']);
});

test('keeps both errors when the release fails too', async () => {
	const {values$} = recording({
		use: () => throwError(() => new Error('disk full')),
		release: () => throwError(() => new Error('socket gone')),
	});
	await expect(lastValueFrom(values$)).rejects.toMatchObject({
		errors: [{message: 'disk full'}, {message: 'socket gone'}],
	});
});

test('a cancelled scope has released before it fails', async () => {
	const {log, values$} = recording({use: () => NEVER.pipe(guardedBy(aborted(AbortSignal.timeout(10))))});
	await expect(lastValueFrom(values$)).rejects.toThrow('timeout');
	expect(log).toEqual(['r failed']);
});

test.each(['while acquiring', 'while using'] as const)(
	'an unsubscribed scope is released all the same, %s',
	async when => {
		const acquired = Promise.withResolvers<string>();
		const used = Promise.withResolvers<undefined>();
		const released = Promise.withResolvers<string>();
		const {values$} = recording({
			acquire: () => acquired.promise,
			use: () => {
				used.resolve(undefined);
				return NEVER;
			},
			release: (resource, outcome) => {
				released.resolve(`${resource} ${outcome}`);
				return EMPTY;
			},
		});
		const subscription = values$.subscribe({error: released.reject});
		if (when === 'while using') {
			acquired.resolve('r');
			await used.promise;
		}
		subscription.unsubscribe();
		acquired.resolve('r');
		await expect(released.promise).resolves.toBe('r abandoned');
	},
);

test('releases once when nothing was emitted', async () => {
	const {log, values$} = recording({use: () => EMPTY});
	await expect(lastValueFrom(values$.pipe(toArray()))).resolves.toEqual([]);
	expect(log).toEqual(['r completed']);
});

test('a cancelled scope inside another is released first, and both before the failure', async () => {
	const outer: string[] = [];
	const values$ = scoped<string, number>({
		acquire: () => Promise.resolve('outer'),
		use: () =>
			scoped<string, number>({
				acquire: () => Promise.resolve('inner'),
				use: () => NEVER.pipe(guardedBy(aborted(AbortSignal.timeout(10)))),
				release: async () => {
					await sleep(5);
					outer.push('inner');
				},
				onLostError: () => undefined,
			}),
		release: () => {
			outer.push('outer');
			return EMPTY;
		},
		onLostError: () => undefined,
	});
	await expect(lastValueFrom(values$)).rejects.toThrow('timeout');
	expect(outer).toEqual(['inner', 'outer']);
});

test('an aborted stream leaves no listener behind', async () => {
	const controller = new AbortController();
	await lastValueFrom(of(1).pipe(guardedBy(aborted(controller.signal))));
	expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0);
});
