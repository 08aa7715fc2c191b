/**
 * The layers, top first. A folder may import from those after it and never from those before it.
 * `errors.ts` stands outside: every layer may raise its own errors.
 */
const layers = [
	'cli',
	'operations',
	'freeze-hooks',
	'snapshots',
	'repository',
	'cut',
	'sink',
	'migration',
	'vma',
	'images',
	'jobs',
	'block',
	'guest-agent',
	'qmp',
	'nbd',
	'host',
	'config',
	'rx',
];

/** Folders that work on files alone, so that a point can be read where no QEMU runs. */
const withoutQmp = ['snapshots', 'repository', 'vma'];

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
	forbidden: [
		...layers.slice(1).map((layer, index) => ({
			name: `${layer}-imports-down-only`,
			comment: `src/${layer} may not import from a layer above it`,
			severity: 'error',
			from: {path: `^src/${layer}/`},
			to: {path: `^src/(${layers.slice(0, index + 1).join('|')})/`},
		})),
		...withoutQmp.map(layer => ({
			name: `${layer}-knows-no-qmp`,
			severity: 'error',
			from: {path: `^src/${layer}/`},
			to: {path: '^src/(cut|sink|migration|jobs|block|guest-agent|qmp)/'},
		})),
		{
			name: 'vma-knows-no-nbd',
			comment: 'an archive takes clusters, whoever brings them',
			severity: 'error',
			from: {path: '^src/vma/'},
			to: {path: '^src/nbd/'},
		},
		{
			name: 'no-cycles',
			comment:
				'what is imported when it is needed closes no circle: the table of commands knows all, and some commands know it',
			severity: 'error',
			from: {},
			to: {circular: true, viaOnly: {dependencyTypesNot: ['dynamic-import']}},
		},
		{
			name: 'only-the-command-line-prints',
			comment: 'yargs and pino belong to src/cli',
			severity: 'error',
			from: {path: '^src/(?!cli/)'},
			to: {path: 'node_modules/(yargs|pino)/'},
		},
		{
			name: 'no-development-dependencies',
			severity: 'error',
			from: {path: '^src'},
			to: {dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only']},
		},
	],
	options: {
		doNotFollow: {path: 'node_modules'},
		tsConfig: {fileName: 'tsconfig.json'},
		tsPreCompilationDeps: true,
	},
};
