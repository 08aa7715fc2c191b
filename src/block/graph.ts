import type {QmpBlockNode, QmpDebugGraph} from '../qmp/schema.ts';
import {nameDisks} from './disk-names.ts';
import {BlockGraphError} from './errors.ts';
import {type Medium, mediumAt} from './medium.ts';
import {type BlockNodes, buildNodes} from './nodes.ts';

/** What QEMU answered. `debugGraph` is needed where the nodes do not name their children (before 10.1). */
export interface BlockReplies {
	readonly backends: readonly BackendReply[];
	readonly nodes: readonly QmpBlockNode[];
	readonly debugGraph?: QmpDebugGraph | undefined;
	/** By `qdev`, as `query-block` spells it. */
	readonly devices: ReadonlyMap<string, DeviceFacts>;
}

/** What is read of an answer of `query-block`. */
export interface BackendReply {
	readonly device: string;
	readonly qdev?: string;
	readonly removable: boolean;
	readonly inserted?: {readonly 'node-name'?: string};
}

/** What the object model says of a disk's device; what the device does not have is absent. */
export interface DeviceFacts {
	/** The QOM type, such as `virtio-blk-device` or `scsi-hd`. */
	readonly type?: string | undefined;
	/** The id of the I/O thread of the device, or of its controller; of several the first. */
	readonly iothread?: string | undefined;
	/** `share-rw`: others may write to the same storage. */
	readonly shared?: boolean | undefined;
}

/** A block device as the guest sees it, or a drive that no device uses but which holds a medium. */
export interface Disk {
	/** Stable across jobs and restarts. */
	readonly name: string;
	/** `name`, made safe as a file name and unique within the VM. */
	readonly fileName: string;
	/** The device's id or QOM path. Absent while no device uses the drive. */
	readonly qdev?: string | undefined;
	/** The drive's id. Absent for `-blockdev` disks. */
	readonly backend?: string | undefined;
	readonly deviceType?: string | undefined;
	readonly iothread?: string | undefined;
	readonly shared: boolean;
	readonly removable: boolean;
	/** Absent in an empty drive. */
	readonly medium?: Medium | undefined;
}

export interface BlockGraph {
	/** In the order of `query-block`. */
	readonly disks: readonly Disk[];
	/** Every node with a name. Its edges lead to nodes of this map and never round in a circle. */
	readonly nodes: BlockNodes;
}

/** Throws {@link BlockGraphError} if the replies do not fit together. */
export function buildBlockGraph({backends, nodes: replies, debugGraph, devices}: BlockReplies): BlockGraph {
	const nodes = buildNodes(replies, debugGraph);
	const present = backends.filter(backend => backend.qdev !== undefined || backend.inserted);
	const names = nameDisks(present);
	const disks = present.map((backend, index) => {
		const {name, fileName} = names[index] ?? {name: '', fileName: ''};
		const {type, iothread, shared = false} = devices.get(backend.qdev ?? '') ?? {};
		return {
			name,
			fileName,
			qdev: backend.qdev,
			backend: backend.device === '' ? undefined : backend.device,
			deviceType: type,
			iothread,
			shared,
			removable: backend.removable,
			medium: mediumOf(nodes, name, backend),
		};
	});
	return {disks, nodes};
}

function mediumOf(nodes: BlockNodes, disk: string, {inserted}: BackendReply): Medium | undefined {
	if (!inserted) return undefined;
	const root = inserted['node-name'];
	if (root === undefined) throw new BlockGraphError(`the node of ${disk} has no name`);
	return mediumAt(nodes, root);
}
