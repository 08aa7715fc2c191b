import {mkdtemp, readFile, rm, stat, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {expect, onTestFinished, test} from 'vitest';
import {QmpConnection} from '../../src/qmp/connection.ts';
import {FileTranscript} from '../../src/qmp/transcript.ts';
import {FakeQemu} from '../support/fake-qemu.ts';

const throwIt = (error: Error): void => {
	throw error;
};

async function temporaryPath(): Promise<string> {
	const folder = await mkdtemp(join(tmpdir(), 'quiesce-transcript-'));
	onTestFinished(() => rm(folder, {recursive: true}));
	return join(folder, 'transcript');
}

function transcriptAt(path: string): FileTranscript {
	const transcript = new FileTranscript(path, throwIt);
	onTestFinished(() => {
		transcript.close();
	});
	return transcript;
}

const modeOf = async (path: string): Promise<string> => ((await stat(path)).mode & 0o777).toString(8);

test('nobody but the owner can read a new transcript', async () => {
	const path = await temporaryPath();
	transcriptAt(path);
	expect(await modeOf(path)).toBe('600');
});

test('a file that existed is closed to others, and keeps its lines', async () => {
	const path = await temporaryPath();
	await writeFile(path, 'earlier\n', {mode: 0o644});
	transcriptAt(path).of('monitor')('->', '{}');
	expect(await modeOf(path)).toBe('600');
	expect(await readFile(path, 'utf8')).toMatch(/^earlier\n\S+Z monitor -> \{\}\n$/);
});

test('records a session in the order of the wire, a line a message', async () => {
	const path = await temporaryPath();
	const qemu = await FakeQemu.listen();
	const opening = QmpConnection.open(qemu.address, {record: transcriptAt(path).of('monitor')});
	const client = await qemu.accept();
	await client.negotiate();
	const qmp = await opening;
	const name = qmp.execute('query-name');
	const {id} = await client.expect('query-name');
	client.emit('RESUME');
	client.send(`{\r\n    "return": {\r\n        "name": "web  1"\r\n    },\r\n    "id": "${id}"\r\n}\r\n`);
	await name;
	await qmp.close();

	const lines = (await readFile(path, 'utf8')).trimEnd().split('\n');
	expect(lines.every(line => /^\d{4}-\d\d-\d\dT[\d:.]+Z monitor (?:->|<-) \{.*\}$/.test(line))).toBe(true);
	expect(lines.map(line => line.split(' ').slice(2).join(' '))).toEqual([
		expect.stringMatching(/^<- \{"QMP"/),
		expect.stringMatching(/^-> \{"execute":"qmp_capabilities"/),
		expect.stringMatching(/^<- \{"return"/),
		expect.stringMatching(/^-> \{"execute":"query-name"/),
		expect.stringMatching(/^<- .*"event":"RESUME"/),
		`<- { "return": { "name": "web  1" }, "id": "${id}" }`,
	]);
});

test('a message of nothing but white space is recorded in no time', async () => {
	const path = await temporaryPath();
	const record = transcriptAt(path).of('monitor');
	const started = performance.now();
	record('<-', `{${' '.repeat(1_000_000)}}`);
	expect(performance.now() - started).toBeLessThan(1_000);
});

test('a transcript that cannot be written any more says so once, and the session goes on', () => {
	const failures: string[] = [];
	const transcript = new FileTranscript('/dev/full', error => failures.push(error.message));
	onTestFinished(() => {
		transcript.close();
	});
	const record = transcript.of('qmp');
	record('->', '{}');
	record('<-', '{}');
	expect(failures).toHaveLength(1);
	expect(failures[0]).toContain('ENOSPC');
});
