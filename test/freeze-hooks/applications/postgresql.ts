import {spawn} from 'node:child_process';
import {readdirSync} from 'node:fs';
import {chmod, chown, mkdir} from 'node:fs/promises';
import {join} from 'node:path';
import {output} from '../../guest/command.ts';
import type {Application} from './application.ts';

/** Debian has a folder for each version. */
const PROGRAMS = join('/usr/lib/postgresql', readdirSync('/usr/lib/postgresql').sort().at(-1) ?? '', 'bin');

/** It does not run as root. */
const AS_POSTGRES = ['--reuid=postgres', '--regid=postgres', '--init-groups'];

export const postgresql: Application = {
	hook: 'postgresql',
	title: 'PostgreSQL',
	prepare: async folder => {
		const data = join(folder, 'data');
		await mkdir(data);
		await chmod(data, 0o700);
		const [uid = 0, gid = 0] = await Promise.all(
			['-u', '-g'].map(async option => Number(await output('id', [option, 'postgres']))),
		);
		await chown(data, uid, gid);
		await output('setpriv', [...AS_POSTGRES, join(PROGRAMS, 'initdb'), '-D', data, '--auth=peer', '-N'], '/');
	},
	start: (folder, sockets) => {
		const command = [join(PROGRAMS, 'postgres'), '-D', join(folder, 'data'), '-k', sockets, '-c', 'listen_addresses='];
		return {
			process: spawn('setpriv', [...AS_POSTGRES, ...command], {stdio: 'ignore', detached: true, cwd: '/'}),
			client: ['setpriv', ...AS_POSTGRES, 'psql', '-XqtA', '-h', sockets, '-d', 'postgres'],
			hello: ['SELECT 1;', '1'],
			make: "CREATE TABLE orders (n INT PRIMARY KEY); CREATE TABLE log (n INT PRIMARY KEY); SELECT 'made';",
			write: n => `BEGIN; INSERT INTO orders VALUES (${n}); INSERT INTO log VALUES (${n}); COMMIT; SELECT ${n};`,
			count: {
				ask: ['orders', 'log'].map(table => `SELECT CONCAT_WS(' ', COUNT(*), MAX(n), SUM(n)) FROM ${table};`).join(' '),
				tables: 2,
			},
		};
	},
	settings: sockets => [`PGHOST=${sockets}`, 'PGPORT=5432'],
};
