import {execFileSync} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';

/** An authority with a certificate for a server, made out to `localhost` and 127.0.0.1, and one for a client: files as QEMU wants them. */
export function makeCertificates(folder: string) {
	const file = (name: string): string => path.join(folder, name);
	const openssl = (...args: string[]): void => {
		execFileSync('openssl', args, {stdio: 'pipe', cwd: folder});
	};
	const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
	const authority = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign'];
	openssl(
		'req',
		'-x509',
		...curve,
		'-days',
		'2',
		'-subj',
		'/CN=test',
		...authority,
		...['-keyout', 'ca-key.pem', '-out', 'ca-cert.pem'],
	);
	for (const role of ['server', 'client']) {
		const extensions = `subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=${role}Auth\nkeyUsage=digitalSignature\n`;
		fs.writeFileSync(file('extensions'), extensions);
		openssl('req', ...curve, '-subj', `/CN=${role}`, '-keyout', `${role}-key.pem`, '-out', 'request.pem');
		openssl(
			...['x509', '-req', '-in', 'request.pem', '-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial'],
			...['-days', '2', '-extfile', 'extensions', '-out', `${role}-cert.pem`],
		);
	}
	const read = (name: string): Buffer => fs.readFileSync(file(name));
	return {
		folder,
		authority: read('ca-cert.pem'),
		server: {certificate: read('server-cert.pem'), key: read('server-key.pem')},
		client: {certificate: read('client-cert.pem'), key: read('client-key.pem')},
	};
}

/** A file of keys, as GnuTLS's programs and QEMU want it. */
export function makeKeys(folder: string, identity: string) {
	const key = randomBytes(32);
	const file = path.join(folder, 'keys.psk');
	fs.writeFileSync(file, `${identity}:${key.toString('hex')}\n`, {mode: 0o600});
	return {folder, file, key, identity};
}
