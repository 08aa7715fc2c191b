import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {chmod, chown, copyFile, mkdir, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {type Control, connectControl} from '../../test/guest/control.ts';
import {guestParts} from '../../test/guest/parts.ts';
import {consoleSays} from '../../test/guest/serial.ts';
import {blankImage, ext4Image, type Image} from '../../test/guest/disks.ts';

/** Debian's `nobody`: libvirt needs no privilege for a domain of a session, and no configuration of the host. */
const USER = 65534;
const READY_MS = 120_000;

export interface Disk {
	readonly name: string;
	readonly image: Image;
}

/** A libvirtd of our own, in a folder, and one domain of it. To dispose of it ends both. */
export interface Domain extends AsyncDisposable {
	readonly name: string;
	readonly control: Control;
	readonly disks: readonly Disk[];
	/** Runs virsh to its end, which must be a good one. */
	readonly virsh: (...args: readonly string[]) => Promise<string>;
}

/** Two disks with file systems, as the guest of the tests wants them, and one that is blank. */
export async function makeDisks(folder: string, blankBytes: number): Promise<Disk[]> {
	const path = (name: string): string => join(folder, `${name}.qcow2`);
	return [
		{name: 'vda', image: await ext4Image(path('vda'), 'qcow2', 256 << 20, 1 << 20, 'a')},
		{name: 'vdb', image: await ext4Image(path('vdb'), 'qcow2', 256 << 20, 1 << 20, 'b')},
		{name: 'vdc', image: await blankImage(path('vdc'), 'qcow2', blankBytes)},
	];
}

/** Boots the guest of the tests as a libvirt domain. `folder` must be one that every user can reach. */
export async function startDomain(name: string, folder: string, blankBytes: number): Promise<Domain> {
	const parts = await guestParts();
	for (const made of ['run', 'config', 'cache']) await mkdir(join(folder, made), {mode: 0o700});
	const disks = await makeDisks(folder, blankBytes);
	for (const part of ['kernel', 'initramfs'] as const) await copyFile(parts[part], join(folder, part));
	await writeFile(join(folder, 'serial.log'), '');
	await writeFile(join(folder, 'domain.xml'), domainXml(name, folder, disks));
	await giveAway(folder, [...disks.map(({image}) => image.path), 'run', 'config', 'cache', 'serial.log', 'domain.xml']);

	const daemon = spawn(...asUser(folder, 'libvirtd'), {stdio: 'ignore'});
	const virsh = (...args: readonly string[]): Promise<string> => collect(...asUser(folder, 'virsh', '-q', ...args));
	const end = async (): Promise<void> => {
		await virsh('destroy', name).catch(() => undefined);
		daemon.kill('SIGTERM');
		if (daemon.exitCode === null && daemon.signalCode === null) await once(daemon, 'exit');
	};
	try {
		// It answers once it has its socket, and has asked QEMU what it can do.
		while (
			!(await virsh('list').then(
				() => true,
				() => false,
			))
		)
			if (daemon.exitCode !== null) throw new Error(`libvirtd ended with exit code ${daemon.exitCode}`);
		await virsh('create', join(folder, 'domain.xml'));
		const words = await consoleSays(
			join(folder, 'serial.log'),
			/quiesce-guest: (ready|failed: .*)|Kernel panic.*/,
			AbortSignal.timeout(READY_MS),
		);
		if (!words.includes('quiesce-guest: ready')) throw new Error(`the guest did not start: ${words.slice(-500)}`);
		const control = await connectControl(join(folder, 'control.sock'));
		return {
			...{name, control, disks, virsh},
			[Symbol.asyncDispose]: async () => {
				control.close();
				await end();
			},
		};
	} catch (error) {
		await end();
		throw error;
	}
}

async function giveAway(folder: string, names: readonly string[]): Promise<void> {
	await chmod(folder, 0o755);
	await chown(folder, USER, USER);
	for (const name of names) await chown(name.startsWith('/') ? name : join(folder, name), USER, USER);
}

function asUser(folder: string, ...command: readonly string[]): [string, string[]] {
	const env = [
		...[`HOME=${folder}`, `XDG_RUNTIME_DIR=${join(folder, 'run')}`, `XDG_CONFIG_HOME=${join(folder, 'config')}`],
		...[`XDG_CACHE_HOME=${join(folder, 'cache')}`, 'LIBVIRT_DEFAULT_URI=qemu:///session', 'LC_ALL=C'],
	];
	const privilege = [`--reuid=${USER}`, `--regid=${USER}`, '--clear-groups', '--pdeathsig', 'TERM'];
	return ['setpriv', [...privilege, 'env', ...env, ...command]];
}

async function collect(program: string, args: readonly string[]): Promise<string> {
	const child = spawn(program, args, {stdio: ['ignore', 'pipe', 'pipe']});
	let [out, words] = ['', ''];
	child.stdout.on('data', part => (out += String(part)));
	child.stderr.on('data', part => (words += String(part)));
	const [code] = (await once(child, 'close')) as [number | null];
	if (code !== 0) throw new Error(`${args.slice(-6).join(' ')}: ${words.trim()}`);
	return out;
}

/** What `startGuest` gives QEMU, in libvirt's words. */
function domainXml(name: string, folder: string, disks: readonly Disk[]): string {
	const kernel =
		'console=ttyS0 quiet panic=-1 no_timer_check qsc.stamp=0 qsc.hook=ok qsc.agent=1 qsc.rate=0 qsc.from=0';
	const channel = (path: string, port: string): string =>
		`<channel type="unix"><source mode="bind" path="${join(folder, path)}"/><target type="virtio" name="${port}"/></channel>`;
	const disk = ({name: target, image}: Disk): string =>
		`<disk type="file" device="disk"><driver name="qemu" type="qcow2" cache="writeback"/><source file="${image.path}"/>` +
		`<target dev="${target}" bus="virtio"/><serial>${target}</serial></disk>`;
	return `<domain type="qemu">
<name>${name}</name><memory unit="MiB">256</memory><vcpu>1</vcpu><cpu mode="maximum"/>
<os><type arch="x86_64" machine="q35">hvm</type><kernel>${join(folder, 'kernel')}</kernel>
<initrd>${join(folder, 'initramfs')}</initrd><cmdline>${kernel}</cmdline></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>${disks.map(disk).join('\n')}
<serial type="file"><source path="${join(folder, 'serial.log')}"/><target port="0"/></serial>
${channel('qga.sock', 'org.qemu.guest_agent.0')}
${channel('control.sock', 'quiesce.control')}
<memballoon model="none"/></devices></domain>
`;
}
