/** As vzdump of Proxmox VE calls an archive of the VM `vmid` that is begun at `when`, in local time. */
export function vzdumpName(vmid: number, when: Date, compression: 'none' | 'zstd'): string {
	const two = (part: number): string => String(part).padStart(2, '0');
	const day = [when.getFullYear(), two(when.getMonth() + 1), two(when.getDate())].join('_');
	const time = [when.getHours(), when.getMinutes(), when.getSeconds()].map(two).join('_');
	return `vzdump-qemu-${vmid}-${day}-${time}.vma${compression === 'zstd' ? '.zst' : ''}`;
}

/** The file whose text Proxmox VE shows beside an archive. */
export function vzdumpNotes(archive: string): string {
	return `${archive}.notes`;
}
