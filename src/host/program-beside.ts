import path from 'node:path';
import {fileURLToPath} from 'node:url';

/**
 * A program of its own that lies in the same folder as a module, whose `import.meta.url` is given: TypeScript in a clone,
 * compiled in the package.
 */
export function programBeside(moduleUrl: string, stem: string): string {
	const here = fileURLToPath(moduleUrl);
	return path.join(path.dirname(here), `${stem}${path.extname(here)}`);
}
