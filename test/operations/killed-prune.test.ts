import {spawn} from 'node:child_process';
import {once} from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {text} from 'node:stream/consumers';
import {expect, test} from 'vitest';
import type {PruneOptions} from '../../src/operations/prune.ts';
import {eventually} from '../jobs/bare-vm.ts';
import {emptyRepository, temporaryFolder} from '../repository/fixture.ts';
import {PointChain} from '../repository/point-chain.ts';
import {sampled} from '../support/thorough.ts';
import {expectWhole, leftovers, run, visible} from './kept-points.ts';

const PROGRAM = fileURLToPath(new URL('killed-prune.ts', import.meta.url));
/** Of the steps of a longer prune, so many are killed at. */
const SAMPLE = 4;

type Choice = Pick<PruneOptions, 'point' | 'rules'>;

/** Prunes in a process of its own, which dies before the step of that number. Its steps, if it lives to the end. */
async function pruneKilledAt(step: number, options: PruneOptions): Promise<readonly string[] | undefined> {
	const node = ['--disable-warning=ExperimentalWarning', PROGRAM, JSON.stringify(options), String(step)];
	// Where a socket may be left.
	const env = {...process.env, TMPDIR: temporaryFolder()};
	const child = spawn(process.execPath, node, {stdio: ['ignore', 'pipe', 'inherit'], detached: true, env});
	const printed = text(child.stdout);
	const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
	await eventually(() => !groupLives(child.pid!));
	if (signal === 'SIGKILL') return undefined;
	expect({code, signal}).toEqual({code: 0, signal: null});
	return JSON.parse(await printed) as string[];
}

function groupLives(pid: number): boolean {
	try {
		process.kill(-pid, 0);
		return true;
	} catch {
		return false;
	}
}

/** Kills a prune at its steps, and after each looks at all that is kept, and lets another prune finish. */
async function expectToSurvive(chain: PointChain, choice: Choice, kept: readonly string[], sample: number) {
	const rehearsal = await chain.copy();
	const steps = (await pruneKilledAt(-1, {repository: rehearsal.repository.path, vm: chain.vm, ...choice}))!;
	expect(await visible(rehearsal)).toEqual(kept);
	for (const number of sampled([...steps.keys()], sample)) {
		const copy = await chain.copy();
		const options = {repository: copy.repository.path, vm: chain.vm, ...choice};
		expect(await pruneKilledAt(number, options), steps[number]).toBeUndefined();
		const where = `killed before ${steps[number] ?? ''}`;
		await expectWhole(copy).catch((cause: unknown) => {
			throw new Error(where, {cause});
		});
		expect(await visible(copy), where).toEqual(expect.arrayContaining([...kept]));
		const again = await visible(copy).then(ids => ids.some(id => id === choice.point));
		// Any prune finishes it, also one that has nothing to remove.
		const messages = await run({
			...options,
			...(choice.point !== undefined && !again ? {point: undefined, rules: {last: 99}} : {}),
		});
		expect(messages.at(-1), where).toMatchObject({damaged: 0, failed: 0});
		expect(await visible(copy), where).toEqual(kept);
		await expectWhole(copy).catch((cause: unknown) => {
			throw new Error(`${where}, and pruned again`, {cause});
		});
		expect(
			leftovers(copy).filter(name => !isHidden(copy, name)),
			where,
		).toEqual([]);
	}
}

/** What a point that stays, since several lie on it, rightly leaves. */
function isHidden({repository, vm}: PointChain, name: string): boolean {
	if (path.basename(name) !== 'expired.json') return false;
	const ids = fs.readdirSync(path.join(repository.path, 'vms', vm));
	const naming = ids.filter(id => {
		const file = path.join(repository.path, 'vms', vm, id, 'point.json');
		return fs.existsSync(file) && fs.readFileSync(file, 'utf8').includes(`"backing": "${path.dirname(name)}"`);
	});
	return naming.length > 1;
}

test('a prune that merges one image can be killed before any of its steps', async () => {
	const chain = new PointChain(await emptyRepository(), {sizes: {vda: 540_672}});
	const full = await chain.on(null);
	const one = await chain.on(full);
	const two = await chain.on(one);
	await expectToSurvive(chain, {point: full.id}, [one.id, two.id], 3 * SAMPLE);
}, 600_000);

test('a prune that merges all of a chain can be killed', async () => {
	const chain = new PointChain(await emptyRepository());
	const full = await chain.on(null);
	const one = await chain.on(full);
	const two = await chain.on(one);
	await expectToSurvive(chain, {rules: {last: 1}}, [two.id], SAMPLE);
}, 900_000);

test('a prune of a chain with a full disk in its middle can be killed', async () => {
	const chain = new PointChain(await emptyRepository());
	const full = await chain.on(null);
	const one = await chain.add({vda: full, vdb: null});
	const two = await chain.on(one);
	await expectToSurvive(chain, {point: one.id}, [full.id, two.id], SAMPLE);
}, 900_000);

test('a prune that leaves an image to two differentials can be killed, and one that merges it at last', async () => {
	const chain = new PointChain(await emptyRepository(), {sizes: {vda: 2 * 1024 * 1024}});
	const full = await chain.on(null);
	const [one, two] = [await chain.on(full, 'differential'), await chain.on(full, 'differential')];
	await expectToSurvive(chain, {point: full.id}, [one.id, two.id], 3);
	await run({repository: chain.repository.path, vm: chain.vm, point: full.id});
	await expectToSurvive(chain, {point: one.id}, [two.id], SAMPLE);
}, 900_000);

test('a prune of points that stand alone can be killed', async () => {
	const chain = new PointChain(await emptyRepository(), {sizes: {vda: 65_536}});
	const points = [await chain.on(null), await chain.on(null), await chain.on(null)];
	await expectToSurvive(chain, {rules: {last: 1}}, [points[2]!.id], SAMPLE);
}, 600_000);
