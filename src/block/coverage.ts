import type {Disk} from './graph.ts';

/** Why this disk cannot be backed up at all, for the operator, to go after its name. */
export function backupRefusal({deviceType, medium}: Disk): string | undefined {
	if (deviceType === 'scsi-block' || deviceType === 'scsi-generic') {
		return (
			`${deviceType} hands the guest's SCSI commands to the host's device: ` +
			'its writes bypass QEMU, and no backup would be of one point in time; attach it as scsi-hd, or back it up on the host'
		);
	}
	if (!medium) return 'the drive is empty';
	if (medium.virtualSize === 0) return `its medium ${medium.filename} has a size of 0: there is nothing to copy`;
	return undefined;
}

/** Why this disk is left out of a backup unless it is asked for by name, to go after its name. */
export function skippedByDefault({deviceType, qdev, medium}: Disk): string | undefined {
	if (!medium) return 'the drive is empty';
	if (qdev === undefined) return 'no device of the guest uses this drive';
	if (deviceType?.endsWith('-cd')) return 'it is a CD-ROM: the guest cannot change it';
	if (medium.readOnly) return 'it is read-only: the guest cannot change it';
	return undefined;
}

/** What the operator should know about a backup of this disk, which each names. */
export function warnings({name, shared, medium}: Disk): string[] {
	const found: string[] = [];
	if (shared) {
		found.push(
			`${name}: share-rw is on: what others, such as a second VM, write to the same storage is seen by no bitmap of this VM; ` +
				'take full backups, or back it up while this VM alone writes to it',
		);
	}
	if (medium?.encrypted) {
		found.push(`${name}: the disk is encrypted, and QEMU reads it decrypted: the backup is plaintext`);
	}
	return found;
}
