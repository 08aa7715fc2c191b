import fs from 'node:fs';
import path from 'node:path';

/** A program of its own: writes a little into a folder, durably, and removes it. A file system that hangs holds only this. */

const file = path.join(process.argv[2] ?? '', `.quiesce-probe-${process.pid}`);
const descriptor = fs.openSync(file, 'wx', 0o600);
fs.unlinkSync(file);
fs.writeSync(descriptor, Buffer.alloc(4096));
fs.fsyncSync(descriptor);
