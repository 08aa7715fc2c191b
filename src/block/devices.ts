import path from 'node:path';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';
import type {DeviceFacts} from './graph.ts';

type Monitor = Pick<QmpConnection, 'execute'>;

/** The QOM path of a device, which `query-block` names by its id where it has one. */
export function devicePath(qdev: string): string {
	return qdev.startsWith('/') ? qdev : `/machine/peripheral/${qdev}`;
}

/** Takes `qdev` as `query-block` spells it. A device that has gone meanwhile has no facts. */
export async function readDeviceFacts(qmp: Monitor, qdev: string): Promise<DeviceFacts> {
	const device = devicePath(qdev);
	const [type, shared] = await Promise.all([
		property(qmp, device, 'type', 'string'),
		property(qmp, device, 'share-rw', 'boolean'),
	]);
	const iothread = await iothreadOf(qmp, type?.startsWith('scsi-') ? await controllerOf(qmp, device) : device);
	return {type, shared, iothread};
}

/** A SCSI disk runs in the I/O thread of its controller, whose child is the bus. */
async function controllerOf(qmp: Monitor, device: string): Promise<string> {
	return path.posix.dirname((await property(qmp, device, 'parent_bus', 'string')) ?? '/');
}

async function iothreadOf(qmp: Monitor, device: string): Promise<string | undefined> {
	const [iothread, mapping] = await Promise.all([
		property(qmp, device, 'iothread', 'string'),
		property(qmp, device, 'iothread-vq-mapping', 'object'),
	]);
	if (iothread !== undefined && iothread !== '') return path.posix.basename(iothread);
	return Array.isArray(mapping) ? (mapping as {iothread: string}[])[0]?.iothread : undefined;
}

interface Kinds {
	string: string;
	boolean: boolean;
	object: object | null;
}

/** `undefined` where the device has no such property, or has another one of that name. */
async function property<Kind extends keyof Kinds>(
	qmp: Monitor,
	device: string,
	name: string,
	kind: Kind,
): Promise<Kinds[Kind] | undefined> {
	try {
		const value = await qmp.execute('qom-get', {path: device, property: name});
		return typeof value === kind ? (value as Kinds[Kind]) : undefined;
	} catch (error) {
		if (error instanceof QmpCommandError) return undefined;
		throw error;
	}
}
