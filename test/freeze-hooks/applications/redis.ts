import {spawn} from 'node:child_process';
import {mkdir} from 'node:fs/promises';
import {join} from 'node:path';
import type {Application} from './application.ts';

const COUNT = `local sum, last = 0, 0
for _, n in ipairs(redis.call("LRANGE", KEYS[1], 0, -1)) do sum = sum + n; last = n end
return redis.call("LLEN", KEYS[1]) .. " " .. last .. " " .. sum`.replaceAll('\n', ' ');

export const redisAppending = redis('Redis, append-only file', ['--appendonly', 'yes', '--save', '']);
export const redisDumping = redis('Redis, dumps', ['--appendonly', 'no', '--save', '3600 1000000']);

function redis(title: string, persistence: readonly string[]): Application {
	return {
		hook: 'redis',
		title,
		prepare: async folder => {
			await mkdir(join(folder, 'data'));
		},
		start: (folder, sockets) => {
			const socket = join(sockets, 'redis');
			const options = ['--port', '0', '--unixsocket', socket, '--dir', join(folder, 'data')];
			return {
				process: spawn('redis-server', [...options, ...persistence], {stdio: 'ignore', detached: true}),
				client: ['redis-cli', '-s', socket],
				hello: ['PING', 'PONG'],
				make: 'ECHO made',
				// Pushed to both or to none.
				write: n =>
					`EVAL 'redis.call("RPUSH", KEYS[1], ARGV[1]); return redis.call("RPUSH", KEYS[2], ARGV[1])' 2 orders log ${n}`,
				count: {ask: `EVAL '${COUNT}' 1 orders\nEVAL '${COUNT}' 1 log`, tables: 2},
			};
		},
		settings: sockets => [`REDIS_SOCKET=${join(sockets, 'redis')}`],
	};
}
