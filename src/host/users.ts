import fs from 'node:fs/promises';

/** The names of this host's own users by number. Those of a directory service are not among them. */
export async function readUserNames(): Promise<ReadonlyMap<number, string>> {
	const passwd = await fs.readFile('/etc/passwd', 'utf8').catch(() => '');
	const users = passwd.split('\n').map(line => line.split(':'));
	return new Map(users.flatMap(([name, , uid]) => (name && uid ? [[Number(uid), name] as const] : [])));
}
