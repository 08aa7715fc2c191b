/** Drivers that pass on what their `file` child holds. */
const FILTERS = new Set(['compress', 'copy-before-write', 'copy-on-read', 'preallocate', 'throttle']);

/** Drivers that say where bytes are, not what they mean. */
const STORAGE = new Set(
	`file host_cdrom host_device ftp ftps gluster http https io_uring iscsi nbd nfs null-aio null-co nvme nvme-io_uring rbd
	sheepdog ssh vvfat virtio-blk-vfio-pci virtio-blk-vhost-user virtio-blk-vhost-vdpa`.split(/\s+/),
);

const LOCAL_FILES = new Set(['file', 'host_cdrom', 'host_device']);

/** Of any node, whatever its driver. */
const GENERIC = new Set('auto-read-only cache detect-zeroes discard driver force-share node-name read-only'.split(' '));

/** Of local files and devices. */
const OF_FILES = new Set('aio aio-max-batch drop-cache locking pr-manager x-check-cache-dropped'.split(' '));

/** Those that say which bytes of which files are the disk's; wrong for a file that holds the whole disk. */
const OF_CONTENT = new Set('backing data-file encrypt key-secret offset size'.split(' '));

/** Of single formats, where `-drive` mixes them with its own. */
const OF_FORMATS = new Set(
	`cache-clean-interval cache-size discard-no-unref force_size_calc l2-cache-entry-size l2-cache-size lazy-refcounts
	overlap-check pass-discard-other pass-discard-request pass-discard-snapshot prealloc-mode prealloc-size
	refcount-cache-size`.split(/\s+/),
);

export type DriverKind = 'filter' | 'storage' | 'format';

export function kindOfDriver(driver: string): DriverKind {
	if (FILTERS.has(driver)) return 'filter';
	return STORAGE.has(driver) ? 'storage' : 'format';
}

export function isLocalFile(driver: string): boolean {
	return LOCAL_FILES.has(driver);
}

/** What an option of a block node belongs to, by the first part of its key, such as `cache` of `cache.direct`. */
export function kindOfOption(key: string): 'generic' | 'file' | 'content' | 'format' | 'other' {
	const head = key.split('.')[0] ?? '';
	if (GENERIC.has(head)) return 'generic';
	if (OF_FILES.has(head)) return 'file';
	if (OF_CONTENT.has(head)) return 'content';
	return OF_FORMATS.has(head) || head.startsWith('overlap-check') ? 'format' : 'other';
}
