import path from 'node:path';

/** In the run's folder: whatever serves it is the run's, and a later run ends it. */
export function socketIn(folder: string): string {
	return path.join(folder, 'nbd.sock');
}

/** The same for the daemon that has the images of a VM open which is off. Nothing is exported there. */
export function imagesSocketIn(folder: string): string {
	return path.join(folder, 'images.sock');
}
