import {createHash} from 'node:crypto';
import {readFile} from 'node:fs/promises';
import {join} from 'node:path';
import {QmpConnection} from '../../src/index.ts';
import {output} from '../guest/command.ts';
import {startGuest, type Guest} from '../guest/guest.ts';
import {fsck, needsRecovery, readStamps} from '../guest/oracle.ts';
import {guestParts} from '../guest/parts.ts';
import {Interrupted, interruptedBySignals} from './interruption.ts';
import {openStage, say, type Stage, title} from './stage.ts';

/** Shows a backup and a restore of a real guest, and checks what was restored. Started by bin/demo. */

const MIB = 1024 * 1024;

interface Check {
	readonly what: string;
	readonly found: string;
	readonly passed: boolean;
}

/** What the guest had before the backup: its stamps, and a file of random bytes that it wrote and did not sync. */
interface Before {
	readonly a: number;
	readonly sha256: string;
}

const signal = interruptedBySignals();
try {
	await demonstrate();
} catch (error) {
	const reason: unknown = signal.aborted ? signal.reason : error;
	const words = reason instanceof Error ? reason.message : String(reason);
	process.stderr.write(`\ndemo: ${words}; what was started is ended, and what was written removed\n`);
	process.exitCode = reason instanceof Interrupted ? reason.status : 1;
}

async function demonstrate(): Promise<void> {
	const began = performance.now();
	using stage = openStage(signal);
	title('A guest to back up');
	say('Building the guest from Debian packages (the first time only) and booting it');
	say('under emulation: Linux, the real guest agent, two ext4 disks. In it a program');
	say('writes one increasing number, the stamp, to both disks all the time.\n');
	await guestParts();
	signal.throwIfAborted();
	await using guest = await startGuest({name: 'demo', bytes: 128 * MIB, fillBytes: 48 * MIB});
	signal.throwIfAborted();
	say(`booted in ${(guest.bootMs / 1000).toFixed(1)} s; the stamp is at ${(await guest.stamps()).a} and goes on`);

	const repository = ['-r', join(stage.folder, 'repo')];
	const restored = join(stage.folder, 'restored');
	title('Which VMs run here, and what is this one made of?');
	await stage.quiesce('discover');
	say();
	await stage.quiesce('inspect', 'demo');

	title('Back it up while it writes');
	await stage.quiesce('backup', 'demo', ...repository, '--quiesce', 'require');

	title('And once more: now only what has changed');
	const before = await prepare(guest);
	await stage.quiesce('backup', 'demo', ...repository, '--quiesce', 'require');
	const after = await guest.stamps();
	const left = await leftIn(guest);

	title('What is in the repository, and is it sound?');
	await stage.quiesce('list', ...repository);
	say();
	await stage.quiesce('verify', '--deep', ...repository);

	title('Keep only the newest point: the older one is merged into it');
	await stage.quiesce('prune', 'demo', ...repository, '--keep-last', '1');
	say();
	await stage.quiesce('list', ...repository);

	title('Bring the disks back');
	await stage.quiesce('restore', 'demo', '--to', restored, ...repository);

	title('Are the restored disks what the guest had?');
	const checks = [left, ...(await examine(stage, restored, before, after.b))];
	signal.throwIfAborted();
	for (const {what, found, passed} of checks) say(`${passed ? 'ok    ' : 'FAILED'}  ${what}\n        ${found}`);
	const failed = checks.filter(({passed}) => !passed).length;
	if (failed > 0) throw new Error(`${failed} of ${checks.length} checks failed`);
	summary(checks.length, performance.now() - began);
}

async function prepare(guest: Guest): Promise<Before> {
	const sums = await guest.read(`head -c ${3 * MIB} /dev/urandom >/mnt/a/proof && sha256sum /mnt/a/proof`);
	const {a} = await guest.stamps();
	return {a, sha256: sums.split(' ')[0] ?? ''};
}

/** Asked on the VM's second monitor, past the program. */
async function leftIn(guest: Guest): Promise<Check> {
	const qmp = await QmpConnection.open({unix: guest.qmp2Path});
	try {
		const jobs = (await qmp.execute('query-jobs')).map(job => job.id);
		const nodes = (await qmp.execute('query-named-block-nodes', {flat: true})).map(node => node['node-name'] ?? '');
		const left = [...jobs, ...nodes].filter(name => name.startsWith('qsc-'));
		return {
			what: 'the backup left nothing in the VM (asked on its second monitor)',
			found: left.length === 0 ? 'no job and no block node of ours' : left.join(', '),
			passed: left.length === 0,
		};
	} finally {
		await qmp.close();
	}
}

async function examine(stage: Stage, restored: string, before: Before, liveAfter: number): Promise<Check[]> {
	const [vda, vdb] = [join(restored, 'vda.raw'), join(restored, 'vdb.raw')];
	const {a, b} = await readStamps(vda, vdb);
	const checks: Check[] = [
		{
			what: 'both disks are of one instant: they carry the same stamp',
			found: `vda ${a}, vdb ${b}`,
			passed: a === b,
		},
		{
			what: 'the instant lies between our two looks at the live guest',
			found: `${before.a} before the backup <= ${a} <= ${liveAfter} after it`,
			passed: before.a <= a && b <= liveAfter,
		},
	];
	for (const [name, image] of [
		['vda', vda],
		['vdb', vdb],
	] as const) {
		const {clean, report} = await fsck(image);
		const replay = await needsRecovery(image);
		checks.push({
			what: `the file system of ${name} is clean (e2fsck -fn), with no journal to replay`,
			found: replay ? 'its journal needs to be replayed' : lastWords(report),
			passed: clean && !replay,
		});
	}
	const copy = join(stage.folder, 'proof');
	await output('debugfs', ['-R', `dump /proof ${copy}`, vda]);
	const sha256 = createHash('sha256')
		.update(await readFile(copy))
		.digest('hex');
	checks.push({
		what: 'a file that the guest wrote, and never synced, has its checksum',
		found: `sha256 ${sha256.slice(0, 16)}… in the guest ${before.sha256.slice(0, 16)}…`,
		passed: sha256 === before.sha256,
	});
	return checks;
}

/** `70/32768 files (0.0% non-contiguous), 17123/32768 blocks`, or else all that e2fsck said. */
function lastWords(report: string): string {
	return /^.*: (?<counts>\d+\/\d+ files .*)$/m.exec(report)?.groups?.['counts'] ?? report.trim();
}

function summary(checks: number, ms: number): void {
	title('Shown');
	say('A running guest with two disks was frozen, cut at one instant, thawed and copied');
	say('while it wrote on, first all of it and then what had changed. The points were verified');
	say('and merged to one, and the disks that were restored from it are those of its instant.');
	say(`All ${checks} checks held, in ${Math.round(ms / 1000)} s.`);
	say('The guest is ended, and the temporary folder removed. Next: docs/quick-start.md');
}
