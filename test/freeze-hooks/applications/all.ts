import type {Application} from './application.ts';
import {mariadb} from './mariadb.ts';
import {postgresql} from './postgresql.ts';
import {redisAppending, redisDumping} from './redis.ts';

export const APPLICATIONS: readonly Application[] = [mariadb, postgresql, redisAppending, redisDumping];
