import {BlockGraphError} from './errors.ts';
import {type BitmapInfo, type BlockNode, type BlockNodes, childOf} from './nodes.ts';
import {runOf} from './names.ts';

/** What is in a drive. */
export interface Medium {
	/** What QEMU calls the disk's node: often a filter, and another one while a job runs. */
	readonly rootNode: string;
	/**
	 * The filter of a job of another program above `rootNode`, which QEMU leaves out where it names the disk's node (mirror,
	 * commit and stream without a filter name). Whoever moved the device to `rootNode` would take the job's disk away.
	 */
	readonly hiddenFilter?: string | undefined;
	/** The guest-visible format node below all filters: what is backed up, and where bitmaps live. */
	readonly node: string;
	/** The driver of `node`; where no format lies over the protocol, the protocol's. */
	readonly format: string;
	/** The driver of the protocol node at the bottom, such as `file`. */
	readonly protocol: string;
	/** Of that node: a path, or `json:{…}`. Never to be opened unseen. */
	readonly filename: string;
	/** Bytes. */
	readonly virtualSize: number;
	readonly allocatedBytes?: number | undefined;
	readonly clusterSize?: number | undefined;
	readonly readOnly: boolean;
	/** The node decrypts: what is read from it is plaintext. */
	readonly encrypted: boolean;
	/** Node names, from the root down. */
	readonly filters: readonly string[];
	/** `node` first, then each backing format node, without the filters between them. */
	readonly chain: readonly [BlockNode, ...BlockNode[]];
	readonly bitmaps: readonly BitmapInfo[];
}

/**
 * The drivers that show what is below them, with the role of the child they show. `raw` is none of them, for it can cut
 * a part out; `quorum` and `replication` are none, for they have state of their own.
 */
const FILTERS: ReadonlyMap<string, string> = new Map([
	['blkdebug', 'image'],
	['blklogwrites', 'file'],
	['blkreplay', 'image'],
	['blkverify', 'raw'],
	['commit_top', 'backing'],
	['compress', 'file'],
	['copy-before-write', 'file'],
	['copy-on-read', 'file'],
	['mirror_top', 'backing'],
	['preallocate', 'file'],
	['throttle', 'file'],
]);

/** `nodes` as `buildNodes` made them. Throws {@link BlockGraphError} if `rootNode` is not there. */
export function mediumAt(nodes: BlockNodes, rootNode: string): Medium {
	const {filters, format} = throughFilters(nodes, rootNode);
	const chain: [BlockNode, ...BlockNode[]] = [format];
	for (let {backing} = format; backing !== undefined;) {
		const next = throughFilters(nodes, backing).format;
		chain.push(withPlainName(nodes, next));
		({backing} = next);
	}
	const storage = downToProtocol(nodes, format);
	const bottom = storage.at(-1) ?? format;
	return {
		rootNode,
		hiddenFilter: filterOver(nodes, rootNode),
		node: format.name,
		format: format.driver,
		protocol: bottom.driver,
		filename: bottom.filename,
		virtualSize: format.virtualSize,
		allocatedBytes: format.allocatedBytes,
		clusterSize: format.clusterSize,
		readOnly: format.readOnly,
		encrypted: storage.some(node => node.encrypted),
		filters,
		chain,
		bitmaps: format.bitmaps,
	};
}

/**
 * QEMU calls an image `json:{…}` also where it only lies on another one than its header says, or says in other words. What is
 * beneath it has the file's name.
 */
function withPlainName(nodes: BlockNodes, format: BlockNode): BlockNode {
	if (!format.filename.startsWith('json:')) return format;
	return {...format, filename: (downToProtocol(nodes, format).at(-1) ?? format).filename};
}

function filterOver(nodes: BlockNodes, below: string): string | undefined {
	return [...nodes.values()].find(node => {
		const role = roleBelow(node);
		return role !== undefined && childOf(node, role) === below;
	})?.name;
}

/** The child that a filter shows; undefined for what is none. */
function roleBelow({name, driver}: BlockNode): string | undefined {
	// A raw node of ours is a gate, which cuts nothing out.
	return FILTERS.get(driver) ?? (driver === 'raw' && runOf(name) !== undefined ? 'file' : undefined);
}

function throughFilters(nodes: BlockNodes, root: string): {filters: string[]; format: BlockNode} {
	const filters: string[] = [];
	let node = find(nodes, root);
	for (let role = roleBelow(node); role !== undefined; role = roleBelow(node)) {
		const below = childOf(node, role);
		if (below === undefined) throw new BlockGraphError(`the filter ${node.name} has nothing under it`);
		filters.push(node.name);
		node = find(nodes, below);
	}
	return {filters, format: node};
}

/** From the format node down to the one that opens the file. Filters and formats may lie between, such as LUKS. */
function downToProtocol(nodes: BlockNodes, format: BlockNode): BlockNode[] {
	const path = [format];
	let node = format;
	for (;;) {
		const below = childOf(node, FILTERS.get(node.driver) ?? 'file');
		if (below === undefined) return path;
		node = find(nodes, below);
		path.push(node);
	}
}

function find(nodes: BlockNodes, name: string): BlockNode {
	const node = nodes.get(name);
	if (!node) throw new BlockGraphError(`there is no node ${name}`);
	return node;
}
