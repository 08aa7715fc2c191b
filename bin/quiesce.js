#!/usr/bin/env node
// Plain JavaScript that any Node can read: it finds one that is new enough, and starts the program on it.
import {spawn} from 'node:child_process';
import {existsSync} from 'node:fs';
import {fileURLToPath} from 'node:url';

const OLDEST = [22, 18];
const here = name => fileURLToPath(new URL(name, import.meta.url));

function isNewEnough(version) {
	const [major, minor] = version.split('.').map(Number);
	return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

/** In a clone, the Node that the repository's own scripts bring along. */
function packagedNode() {
	return [`../node_modules/node-linux-${process.arch}/bin/node`].map(here).find(existsSync);
}

if (isNewEnough(process.versions.node)) {
	// A package carries dist; a clone runs its sources.
	const compiled = here('../dist/cli/main.js');
	const {main} = await import(
		existsSync(compiled) && !existsSync(here('../src')) ? compiled : here('../src/cli/main.ts')
	);
	await main(process.argv.slice(2));
} else {
	const node = packagedNode();
	if (node === undefined) {
		process.stderr.write(`quiesce: needs Node ${OLDEST.join('.')} or newer; this is ${process.versions.node}\n`);
		process.exit(78);
	}
	// In a session of its own, it gets each signal once: from here.
	const child = spawn(node, [here('quiesce.js'), ...process.argv.slice(2)], {stdio: 'inherit', detached: true});
	for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1']) process.on(name, () => child.kill(name));
	child.on('exit', (code, name) => {
		if (name === null) process.exit(code);
		process.removeAllListeners(name);
		process.kill(process.pid, name);
	});
}
