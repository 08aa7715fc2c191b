import type {CarriedBitmaps} from '../block/carried-bitmaps.ts';
import type {QmpConnection} from '../qmp/connection.ts';
import {QmpCommandError} from '../qmp/errors.ts';

/**
 * Brings the bitmaps of layers that go into `node`, which records from then on in those that it lacked. To be called while
 * what the guest writes still reaches the layers too: each bitmap that is added records before the others are merged into it.
 * Returns in words what is lost; nothing here can spoil more than an increment, for which the next point is a full.
 */
export async function mergeBitmaps(
	qmp: QmpConnection,
	node: string,
	{add, merge, lost}: CarriedBitmaps,
): Promise<string[]> {
	const problems = lost.map(({name, why}) => `bitmap ${name} is lost: ${why}`);
	for (const {name, from} of merge) {
		const bitmap = add.find(candidate => candidate.name === name);
		const bring = (persistent: boolean) =>
			qmp.execute('transaction', {
				actions: [
					...(bitmap
						? [
								{
									type: 'block-dirty-bitmap-add' as const,
									data: {node, name, granularity: bitmap.granularity, persistent},
								},
							]
						: []),
					{
						type: 'block-dirty-bitmap-merge' as const,
						data: {node, target: name, bitmaps: from.map(layer => ({node: layer, name}))},
					},
				],
			});
		try {
			await bring(bitmap?.persistent === true).catch(async (error: unknown) => {
				// Such as an image of an old version: then it lasts as long as QEMU.
				if (!(error instanceof QmpCommandError) || bitmap?.persistent !== true) throw error;
				await bring(false);
			});
		} catch (error) {
			if (!(error instanceof QmpCommandError)) throw error;
			problems.push(`bitmap ${name} is lost: ${error.message}`);
		}
	}
	return problems;
}
