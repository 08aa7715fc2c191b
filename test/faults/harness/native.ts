import {join} from 'node:path';
import {output} from '../../guest/command.ts';

/** Small C programs, for what Node cannot do. */
export interface Native {
	/** See `native/fault.c`. */
	readonly fault: (...args: readonly string[]) => Promise<string>;
	/** To preload; see `native/clock.c`. */
	readonly clockLibrary: string;
}

export async function buildNative(folder: string): Promise<Native> {
	const source = (name: string): string => join(import.meta.dirname, 'native', name);
	const [program, clockLibrary] = [join(folder, 'fault'), join(folder, 'clock.so')];
	const strict = ['-O2', '-Wall', '-Wextra', '-Werror'];
	await output('gcc', [...strict, '-o', program, source('fault.c')]);
	await output('gcc', [...strict, '-shared', '-fPIC', '-o', clockLibrary, source('clock.c'), '-ldl']);
	return {fault: (...args) => output(program, args), clockLibrary};
}
