import {defineConfig, globalIgnores} from 'eslint/config';
import rxjs from 'eslint-plugin-rxjs-x';
import tseslint from 'typescript-eslint';

export default defineConfig(
	globalIgnores(['dist/', 'coverage/', '.cache/']),
	{
		files: ['**/*.ts'],
		extends: [tseslint.configs.strictTypeChecked, rxjs.configs.strict],
		languageOptions: {parserOptions: {projectService: true}},
		rules: {
			'@typescript-eslint/explicit-module-boundary-types': 'error',
			'@typescript-eslint/restrict-template-expressions': ['error', {allowNumber: true}],
			'@typescript-eslint/switch-exhaustiveness-check': ['error', {considerDefaultExhaustiveForUnions: true}],
			// `catch` gives `unknown`; passing it on unchanged is right.
			'rxjs-x/throw-error': ['error', {allowThrowingUnknown: true, allowThrowingAny: false}],
			// `$` marks a value that is an Observable. Functions returning one are named by what they do.
			'rxjs-x/finnish': 'off',
		},
	},
	{
		files: ['test/**/*.ts', 'bench/**/*.ts', 'docs/**/*.ts'],
		rules: {
			'rxjs-x/no-ignored-default-value': 'off',
			'@typescript-eslint/explicit-module-boundary-types': 'off',
			'@typescript-eslint/no-non-null-assertion': 'off',
		},
	},
);
