import type {SocketAddress} from '../config/address.ts';
import {argumentsOf, type CommandLineOption, optionsOf} from './command-line.ts';
import {type OptionString, optionValue, parseOptionString} from './option-string.ts';

/** Where a character device can be reached: an address as QEMU sees it, an inherited descriptor, or why not. */
export type Endpoint = SocketAddress | {readonly fd: number} | {readonly unusable: string};

interface MonitorFact {
	/** The character device's id, where it was given one. */
	readonly chardev: string | undefined;
	readonly endpoint: Endpoint;
}

/** What a command line says of its VM. Unix paths are as written: relative ones belong to QEMU's folder at its start. */
export interface CommandLineFacts {
	readonly name: string | undefined;
	/** In lower case. */
	readonly uuid: string | undefined;
	/** Those that speak QMP. */
	readonly monitors: readonly MonitorFact[];
	readonly agent: Endpoint | undefined;
	/** The user that QEMU changes to, as written: a name or `uid:gid`. */
	readonly runAs: string | undefined;
	/** Every Unix socket it listens on, whatever speaks there. */
	readonly unixSockets: readonly string[];
	/** Configuration files with more options, which are not read. */
	readonly configFiles: readonly string[];
}

export function commandLineFacts(line: readonly CommandLineOption[]): CommandLineFacts {
	const chardevs = optionsOf(line, 'chardev');
	const direct = argumentsOf(line, 'qmp', 'qmp-pretty').map(text => directMonitor(text, chardevs));
	const named = optionsOf(line, 'mon')
		.filter(option => optionValue(option, 'mode') === 'control')
		.map(option => monitorOn(optionValue(option, 'chardev') ?? '', chardevs));
	const others = argumentsOf(line, 'monitor', 'serial', 'parallel').map(legacyEndpoint);
	const endpoints = [...chardevs.map(socketEndpoint), ...direct.map(({endpoint}) => endpoint), ...others];
	return {
		name: lastOf(optionsOf(line, 'name'), 'guest'),
		uuid: argumentsOf(line, 'uuid').at(-1)?.toLowerCase(),
		monitors: [...direct, ...named],
		agent: agentEndpoint(line, chardevs),
		runAs: lastOf(optionsOf(line, 'run-with'), 'user') ?? argumentsOf(line, 'runas').at(-1),
		unixSockets: [...new Set(endpoints.flatMap(endpoint => ('unix' in endpoint ? endpoint.unix : [])))],
		configFiles: argumentsOf(line, 'readconfig'),
	};
}

function lastOf(options: readonly OptionString[], key: string): string | undefined {
	return options.flatMap(option => optionValue(option, key) ?? []).at(-1);
}

function directMonitor(text: string, chardevs: readonly OptionString[]): MonitorFact {
	if (text.startsWith('chardev:')) return monitorOn(text.slice('chardev:'.length), chardevs);
	return {chardev: undefined, endpoint: legacyEndpoint(text)};
}

function monitorOn(id: string, chardevs: readonly OptionString[]): MonitorFact {
	return {chardev: id, endpoint: chardevEndpoint(id, chardevs)};
}

function agentEndpoint(line: readonly CommandLineOption[], chardevs: readonly OptionString[]): Endpoint | undefined {
	const port = optionsOf(line, 'device').find(device => optionValue(device, 'name') === 'org.qemu.guest_agent.0');
	const id = port && optionValue(port, 'chardev');
	return id === undefined ? undefined : chardevEndpoint(id, chardevs);
}

function chardevEndpoint(id: string, chardevs: readonly OptionString[]): Endpoint {
	const chardev = chardevs.find(candidate => optionValue(candidate, 'id') === id);
	return chardev ? socketEndpoint(chardev) : {unusable: `its chardev '${id}' is not on the command line`};
}

function socketEndpoint(chardev: OptionString): Endpoint {
	const backend = optionValue(chardev, 'backend');
	if (backend !== 'socket') return {unusable: `it is no socket but '${backend ?? ''}'`};
	const fd = optionValue(chardev, 'fd');
	if (fd !== undefined) {
		return /^\d+$/.test(fd) ? {fd: Number(fd)} : {unusable: `its socket was passed as descriptor '${fd}'`};
	}
	if (!isOn(optionValue(chardev, 'server'))) return {unusable: 'it connects out and does not listen (no server=on)'};
	for (const protocol of ['telnet', 'tn3270', 'websocket']) {
		if (isOn(optionValue(chardev, protocol))) return {unusable: `it speaks ${protocol}`};
	}
	if (optionValue(chardev, 'tls-creds') !== undefined) return {unusable: 'it asks for TLS'};
	const path = optionValue(chardev, 'path');
	if (path === undefined) return inetEndpoint(optionValue(chardev, 'host') ?? '', optionValue(chardev, 'port') ?? '');
	if (path === '') return {unusable: 'its socket has no path'};
	return isOn(optionValue(chardev, 'abstract')) ? {unusable: 'its socket is an abstract one'} : {unix: path};
}

/** The syntax of `-qmp`, `-monitor` and `-serial`: `unix:/path,server=on`, `tcp:host:port,server=on`. */
function legacyEndpoint(text: string): Endpoint {
	const device = text.replace(/^mon:/, '');
	if (device.startsWith('unix:')) return socketEndpoint(asSocket(device.slice('unix:'.length), 'path'));
	const inet = /^(?<kind>tcp|telnet|tn3270|websocket):(?<host>\[[^\]]*\]|[^:,]*):(?<rest>.*)$/s.exec(device)?.groups;
	if (!inet) return {unusable: `it is no socket but '${device.split(/[:,]/)[0] ?? ''}'`};
	if (inet['kind'] !== 'tcp') return {unusable: `it speaks ${inet['kind'] ?? ''}`};
	const socket = asSocket(inet['rest'] ?? '', 'port');
	const host = (inet['host'] ?? '').replaceAll(/[[\]]/g, '');
	return socketEndpoint({...socket, items: [...socket.items, {key: 'host', value: host, form: 'pair'}]});
}

function asSocket(text: string, impliedKey: string): OptionString {
	const {syntax, items} = parseOptionString(text, impliedKey);
	return {syntax, items: [...items, {key: 'backend', value: 'socket', form: 'implied'}]};
}

/** The wildcard addresses stand for all of this host's; one of those is called. */
function inetEndpoint(host: string, port: string): Endpoint {
	const number = /^\d{1,5}$/.test(port) ? Number(port) : 0;
	if (number < 1 || number > 65_535) return {unusable: `its TCP port '${port}' is no number`};
	if (host === '' || host === '0.0.0.0') return {host: '127.0.0.1', port: number};
	return {host: host === '::' ? '::1' : host, port: number};
}

function isOn(value: string | undefined): boolean {
	return value === 'on' || value === 'yes' || value === 'true' || value === 'y';
}
