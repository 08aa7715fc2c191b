/**
 * Why a name may not stand in an archive, if so. Readers use them as names of files, some without a look at them, so they
 * must not lead out of a folder.
 */
export function wrongConfigName(name: string): string | undefined {
	if (name === '' || name === '.' || name === '..') return `"${name}" is no name of a file`;
	if (name.includes('/')) return `"${name}" has a slash in it`;
	if (name.includes('\0')) return 'it has a NUL in it';
	return undefined;
}

/** Of a device, besides: the tools of Proxmox take a name up to the next space. */
export function wrongDeviceName(name: string): string | undefined {
	return wrongConfigName(name) ?? (/^\S+$/.test(name) ? undefined : `"${name}" has a space in it`);
}
