/** What yargs says of wrong use, in the words of an operator, who typed neither camel case nor a number of arguments. */
export function usageWords(message: string): string {
	if (message.startsWith('Unknown argument')) return kebabCase(message);
	if (message.startsWith('Not enough non-option arguments')) return 'an argument is missing';
	const wrong = message.matchAll(/^ *Argument: (?<name>\S+), Given: (?<given>.*), Choices: (?<choices>.*)$/gm);
	const words = Array.from(wrong, ({groups = {}}) =>
		wrongChoice(groups as Record<'name' | 'given' | 'choices', string>),
	);
	return words.length === 0 ? message : words.join('; ');
}

/** What was given is in quotes, if anything was. */
function wrongChoice({name, given, choices}: Record<'name' | 'given' | 'choices', string>): string {
	const possible = choices.replaceAll('"', '');
	if (!given.startsWith('"')) return `${kebabCase(name)} has no value; it may be ${possible}`;
	return `${kebabCase(name)} is ${given}, which is none of ${possible}`;
}

export function kebabCase(name: string): string {
	return name.replaceAll(/(?<=[a-z])[A-Z]/g, letter => `-${letter.toLowerCase()}`);
}
