import type {Of} from '../operations/together.ts';
import type {GroupRecord} from '../repository/manifest.ts';
import type {SnapshotGroup} from '../snapshots/manifest.ts';
import {toJson} from './json.ts';
import {printable} from './printable.ts';
import type {Printer} from './printer.ts';
import {openProgressView, type ProgressItem, type ProgressView} from './progress-lines.ts';
import {formatSeconds} from './quantities.ts';
import {printResult} from './terminal.ts';

interface GroupFinished {
	readonly kind: 'group-finished';
	readonly group: GroupRecord | SnapshotGroup;
}

/** As the printer of one VM, whose words `printWords` has, for several: each line says of which. */
export function groupPrinter<Message extends {readonly kind: string}>(
	{json, quiet}: {readonly json: boolean; readonly quiet: boolean},
	printWords: (message: Message, view: ProgressView, named: boolean) => void,
): Printer<Of<Message> | GroupFinished> {
	if (json) return {print: printJsonLine, end: () => undefined};
	const view = openProgressView(quiet);
	const progress = new Map<string, readonly ProgressItem[]>();
	return {
		print: message => {
			if (isLast(message)) view.note(`group ${groupWords(message.group)}`);
			else printWords(message, viewOf(message.of, view, progress), true);
		},
		end: () => {
			view.end();
		},
	};
}

function isLast<Message extends {readonly kind: string}>(
	message: Of<Message> | GroupFinished,
): message is GroupFinished {
	return message.kind === 'group-finished';
}

function printJsonLine<Message extends {readonly kind: string}>(message: Of<Message> | GroupFinished): void {
	if (isLast(message)) {
		printResult(toJson({messageType: 'summary', ...message, kind: undefined}));
		return;
	}
	const {kind, of: vm, ...rest} = message;
	printResult(toJson({messageType: kind, vm, ...rest}));
}

/** One of several VMs' part of a view. */
function viewOf(vm: string, view: ProgressView, progress: Map<string, readonly ProgressItem[]>): ProgressView {
	const named = (text: string): string => `${printable(vm)}: ${text}`;
	return {
		show: items => {
			progress.set(
				vm,
				items.map(item => ({...item, name: `${vm}:${item.name}`})),
			);
			view.show([...progress.values()].flat());
		},
		note: text => {
			view.note(named(text));
		},
		warn: text => {
			view.warn(named(text));
		},
		end: () => undefined,
	};
}

/** `shop: 2 VMs cut within 3.1 ms (web 0.0 to 2.4 ms, db 0.1 to 3.1 ms)` */
export function groupWords({name, skewSeconds, members}: GroupRecord | SnapshotGroup): string {
	const each = members.map(
		({vm, cutBeganSeconds, cutEndedSeconds}) =>
			`${vm} ${formatSeconds(cutBeganSeconds ?? 0)} to ${formatSeconds(cutEndedSeconds ?? 0)}`,
	);
	if (skewSeconds === null) return `${printable(name)}: ${members.length} VMs`;
	return `${printable(name)}: ${members.length} VMs cut within ${formatSeconds(skewSeconds)} (${printable(each.join(', '))})`;
}
