import {chmod, chown, mkdir, mkdtemp, rm, stat, symlink, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {afterEach, beforeEach, expect, onTestFinished, test, vi} from 'vitest';
import {QuiesceError} from '../../src/errors.ts';
import {runtimeFolder} from '../../src/host/runtime-folder.ts';

let root: string;

beforeEach(async () => {
	root = await mkdtemp(join(tmpdir(), 'quiesce-runtime-'));
	vi.stubEnv('QUIESCE_RUNTIME_DIR', join(root, 'run'));
});
afterEach(async () => {
	vi.unstubAllEnvs();
	await rm(root, {recursive: true});
});

async function refusal(): Promise<QuiesceError> {
	const error = await runtimeFolder().catch((caught: unknown) => caught);
	expect(error).toBeInstanceOf(QuiesceError);
	return error as QuiesceError;
}

function withUid(uid: number): void {
	const spy = vi.spyOn(process as Required<typeof process>, 'getuid').mockReturnValue(uid);
	onTestFinished(() => {
		spy.mockRestore();
	});
}

/** Makes root, as which the tests may run, look like someone else, to whom the folder then belongs. */
async function asOrdinaryUser(folder: (uid: number) => string): Promise<void> {
	const uid = process.getuid?.() ?? 0;
	if (uid !== 0) return;
	await mkdir(folder(12_345), {mode: 0o700});
	await chown(folder(12_345), 12_345, 12_345);
	withUid(12_345);
}

test('the folder that the environment names is made, with its parents, and nobody else can list it', async () => {
	vi.stubEnv('QUIESCE_RUNTIME_DIR', join(root, 'deep', 'run'));
	const folder = await runtimeFolder();
	expect(folder).toBe(join(root, 'deep', 'run'));
	expect((await stat(folder)).mode & 0o066).toBe(0);
	expect(await runtimeFolder()).toBe(folder);
});

test('a user without a session gets a folder of their own in the temporary one', async () => {
	vi.stubEnv('QUIESCE_RUNTIME_DIR', '');
	vi.stubEnv('XDG_RUNTIME_DIR', '');
	vi.stubEnv('TMPDIR', root);
	const folder = (uid: number): string => join(root, `quiesce-${uid}`);
	await asOrdinaryUser(folder);
	expect(await runtimeFolder()).toBe(folder(process.getuid?.() ?? 0));
});

test('a user with a session gets a folder in it', async () => {
	vi.stubEnv('QUIESCE_RUNTIME_DIR', '');
	vi.stubEnv('XDG_RUNTIME_DIR', root);
	await asOrdinaryUser(() => join(root, 'quiesce'));
	expect(await runtimeFolder()).toBe(join(root, 'quiesce'));
});

test.each([0o720, 0o702, 0o740, 0o704, 0o755, 0o777])('a folder of mode %o is refused', async mode => {
	await mkdir(join(root, 'run'));
	await chmod(join(root, 'run'), mode);
	expect(await refusal()).toMatchObject({
		code: 'FAILED',
		message: `${join(root, 'run')} is not a folder that only this user can write and list`,
		hint: 'Remove it, or name another with QUIESCE_RUNTIME_DIR.',
	});
});

test.each([0o700, 0o711])('a folder of mode %o is taken as it is', async mode => {
	await mkdir(join(root, 'run'));
	await chmod(join(root, 'run'), mode);
	expect(await runtimeFolder()).toBe(join(root, 'run'));
	expect((await stat(join(root, 'run'))).mode & 0o777).toBe(mode);
});

test("another's folder is refused, also behind a link", async () => {
	await mkdir(join(root, 'good'), {mode: 0o700});
	await symlink(join(root, 'good'), join(root, 'run'));
	expect((await refusal()).message).toContain('is not a folder');
	await rm(join(root, 'run'));
	await mkdir(join(root, 'run'), {mode: 0o700});
	withUid((process.getuid?.() ?? 0) + 1);
	expect((await refusal()).message).toContain('is not a folder that only this user can write');
});

test('a place that cannot be a folder is refused in words', async () => {
	await writeFile(join(root, 'run'), '');
	expect(await refusal()).toMatchObject({
		message: expect.stringContaining(`cannot make the folder ${join(root, 'run')}: `) as string,
		hint: 'Name another with QUIESCE_RUNTIME_DIR.',
	});
	vi.stubEnv('QUIESCE_RUNTIME_DIR', join(root, 'run', 'below'));
	expect((await refusal()).message).toContain('ENOTDIR');
});
