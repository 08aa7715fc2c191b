import fc from 'fast-check';
import {expect, test} from 'vitest';
import {
	type OptionItem,
	type OptionString,
	optionValue,
	parseOptionString,
	printOptionString,
} from '../../src/host/option-string.ts';

/** Commas, equal signs and quotes often. */
const text = fc.string({
	unit: fc.oneof(
		fc.constantFrom(',', '=', "'", '"', '{', '\\'),
		fc.string({unit: 'binary', minLength: 1, maxLength: 1}),
	),
});
const key = fc.stringMatching(/^[a-z][a-z0-9.-]{0,12}$/);

const pair = fc.record<OptionItem>({key, value: text, form: fc.constant('pair')});
const flag = fc.oneof(
	fc.record<OptionItem>({
		key: key.filter(name => !name.startsWith('no')),
		value: fc.constant('on'),
		form: fc.constant('flag'),
	}),
	fc.record<OptionItem>({key, value: fc.constant('off'), form: fc.constant('flag')}),
);
const implied = fc.record<OptionItem>({
	key: fc.constant('type'),
	value: text.filter(value => !/^[^,]*=|^\{/.test(value)),
	form: fc.constant('implied'),
});

test('any text is printed as it was read', () => {
	fc.assert(
		fc.property(
			text.filter(value => !value.startsWith('{')),
			fc.option(key, {nil: undefined}),
			(value, impliedKey) => {
				expect(printOptionString(parseOptionString(value, impliedKey))).toBe(value);
			},
		),
	);
});

test('any pairs are read as they were printed', () => {
	fc.assert(
		fc.property(fc.array(fc.oneof(pair, flag), {minLength: 1}), items => {
			const option: OptionString = {syntax: 'pairs', items};
			expect(parseOptionString(printOptionString(option))).toEqual(option);
		}),
	);
});

test('a leading value without its key is read as it was printed', () => {
	fc.assert(
		fc.property(implied, fc.array(fc.oneof(pair, flag), {minLength: 1}), (first, rest) => {
			const option: OptionString = {syntax: 'pairs', items: [first, ...rest]};
			expect(parseOptionString(printOptionString(option), 'type')).toEqual(option);
		}),
	);
});

test('any JSON object is printed as it was read', () => {
	const {tree} = fc.letrec(tie => ({
		tree: fc.dictionary(
			fc.string().filter(name => !name.includes('.')),
			tie('value'),
			{maxKeys: 4, noNullPrototype: true},
		),
		value: fc.oneof(
			{maxDepth: 3},
			fc.string(),
			fc.integer(),
			fc.boolean(),
			fc.constant(null),
			tie('tree'),
			fc.array(fc.integer()),
		),
	}));
	fc.assert(
		fc.property(tree, object => {
			const json = JSON.stringify(object);
			expect(printOptionString(parseOptionString(json))).toEqual(json);
		}),
	);
});

test.each([
	['a,,b,c=1', 'guest', {guest: 'a,b', c: '1'}],
	['server,nowait,path=/a', undefined, {server: 'on', wait: 'off', path: '/a'}],
	['driver=raw,driver=qcow2', undefined, {driver: 'qcow2'}],
	['x=1,', undefined, {x: '1'}],
	[
		'{"driver":"qcow2","file":{"driver":"file","locking":false}}',
		'driver',
		{'driver': 'qcow2', 'file.driver': 'file', 'file.locking': 'false'},
	],
	[`{'driver': 'raw', "file": 'it\\'s "x"'}`, undefined, {driver: 'raw', file: `it's "x"`}],
	['{no JSON', 'type', {type: '{no JSON'}],
])('%s', (string, impliedKey, values) => {
	const option = parseOptionString(string, impliedKey);
	for (const [name, value] of Object.entries(values)) expect(optionValue(option, name)).toBe(value);
});

test('a leading value with an equal sign gets its key', () => {
	const option: OptionString = {syntax: 'pairs', items: [{key: 'guest', value: 'a=b', form: 'implied'}]};
	expect(printOptionString(option)).toBe('guest=a=b');
});
