import {spawn} from 'node:child_process';
import {join} from 'node:path';
import {output} from '../../guest/command.ts';
import type {Application} from './application.ts';

/** With a table that has a journal and one that has none: only a lock keeps the second in step with the first. */
export const mariadb: Application = {
	hook: 'mysql',
	title: 'MariaDB',
	prepare: async folder => {
		const data = join(folder, 'data');
		const install = ['--no-defaults', `--datadir=${data}`, '--user=root', '--auth-root-authentication-method=socket'];
		await output('mariadb-install-db', [...install, '--skip-test-db', '--innodb-log-file-size=8M']);
	},
	start: (folder, sockets) => {
		const socket = join(sockets, 'sql');
		return {
			process: spawn(
				'mariadbd',
				[
					...['--no-defaults', '--user=root', `--datadir=${join(folder, 'data')}`, `--socket=${socket}`],
					...['--skip-networking', '--innodb-log-file-size=8M', `--pid-file=${join(sockets, 'pid')}`],
					...['--myisam-recover-options=OFF', `--tmpdir=${sockets}`],
				],
				{stdio: 'ignore', detached: true},
			),
			client: ['mariadb', '--no-defaults', `--socket=${socket}`, '--batch', '--skip-column-names', '--unbuffered'],
			hello: ['SELECT 1;', '1'],
			make:
				['CREATE DATABASE shop;', table('orders', 'InnoDB'), table('items', 'InnoDB'), table('log', 'MyISAM')].join(
					' ',
				) + " SELECT 'made';",
			write: n => `BEGIN; ${insert('orders', n)} ${insert('items', n)} COMMIT; ${insert('log', n)} SELECT ${n};`,
			count: {
				ask: ['orders', 'items', 'log']
					.map(table => `SELECT CONCAT_WS(' ', COUNT(*), MAX(n), SUM(n)) FROM shop.${table};`)
					.join(' '),
				tables: 3,
			},
		};
	},
	settings: sockets => [`MYSQL_SOCKET=${join(sockets, 'sql')}`],
};

function table(name: string, engine: string): string {
	return `CREATE TABLE shop.${name} (n INT PRIMARY KEY) ENGINE=${engine};`;
}

function insert(name: string, n: number): string {
	return `INSERT INTO shop.${name} VALUES (${n});`;
}
