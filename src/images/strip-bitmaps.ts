import {readImageContents, removeBitmap} from './image-snapshots.ts';

/** Removes the bitmaps that are stored in a closed qcow2 image, all of them: of a copy they mean nothing. */
export async function stripBitmaps(image: string, signal?: AbortSignal): Promise<void> {
	for (const name of (await readImageContents(image, signal)).bitmaps) await removeBitmap(image, name, signal);
}
