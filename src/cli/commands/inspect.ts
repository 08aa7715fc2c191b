import type {Argv} from 'yargs';
import type {Disk} from '../../block/graph.ts';
import {inspect, type VmReport} from '../../operations/inspect.ts';
import {formatJobs} from '../job-table.ts';
import {toJson} from '../json.ts';
import {printable} from '../printable.ts';
import {formatBytes} from '../quantities.ts';
import {type GlobalOptions, runCommand} from '../run-command.ts';
import {formatTable} from '../table.ts';
import {printResult} from '../terminal.ts';
import {socketsOf, type VmOptions, vmOptions} from '../vm-options.ts';

type Options = GlobalOptions & VmOptions;

export function build(yargs: Argv): Argv {
	return vmOptions(yargs)
		.usage(
			'$0 inspect [VM]\n\nShows the disks of a VM with their chains, its jobs, its agent, and what its QEMU can do.',
		)
		.example('$0 inspect web1', '')
		.example('$0 inspect --qmp /run/web1.qmp --agent /run/web1.qga --json', '');
}

export function run(options: Options): Promise<void> {
	return runCommand(options, async ({json, signal, transcript}) => {
		const report = await inspect(await socketsOf(options), {signal, transcript});
		if (json) printResult(toJson({...report, leftOut: [...report.leftOut].map(([disk, reason]) => ({disk, reason}))}));
		else printResult(describe(report));
		return undefined;
	});
}

function describe(report: VmReport): string {
	const {qemu, agent} = report;
	return [
		`VM           ${printable(report.name)}${report.uuid === undefined ? '' : ` (${report.uuid})`}, ${report.status}`,
		`QEMU         ${qemu.version} (${printable(qemu.package)})`,
		`guest agent  ${describeAgent(agent)}`,
		'',
		'disks',
		...report.disks.flatMap(disk => diskLines(disk, report.leftOut.get(disk.name))),
		...(report.jobs.length === 0 ? [] : ['', 'jobs', indent(formatJobs(report.jobs))]),
		...(report.uncovered.length === 0 ? [] : ['', 'outside of the block layer, and never in a point']),
		...report.uncovered.map(({name, what}) => `  ${printable(name)}: ${what}`),
		'',
		'what this QEMU can do',
		indent(capabilityTable(report)),
	].join('\n');
}

function describeAgent(agent: VmReport['agent']): string {
	switch (agent.state) {
		case 'not named':
			return 'none known (name its socket with --agent)';
		case 'unreachable':
			return `no answer: ${printable(agent.reason)}`;
		case 'frozen':
			return `${printable(agent.version)}; the guest is FROZEN`;
		case 'thawed':
			return `${printable(agent.version)}; ${agent.canFreeze ? 'can' : 'may not'} freeze the guest`;
	}
}

function diskLines(disk: Disk, leftOut: string | undefined): string[] {
	const {name, deviceType, iothread, medium} = disk;
	const device = [deviceType, iothread === undefined ? undefined : `iothread ${iothread}`];
	const facts = device.filter(fact => fact !== undefined).join(', ');
	const head = `  ${printable(name)}${facts === '' ? '' : `  ${printable(facts)}`}`;
	const reason = leftOut === undefined ? [] : [`    not backed up: ${printable(leftOut)}`];
	if (!medium) return [head, ...reason];
	const filters = medium.filters.map(filter => `    under filter ${printable(filter)}`);
	const chain = medium.chain.map((node, depth) => {
		const branch = depth === 0 ? '' : `${'   '.repeat(depth - 1)}└─ `;
		const file = depth === 0 ? medium.filename : node.filename;
		const allocated = node.allocatedBytes === undefined ? '' : ` (${formatBytes(node.allocatedBytes)} allocated)`;
		return `    ${branch}${node.driver}  ${formatBytes(node.virtualSize)}${allocated}  ${printable(file)}`;
	});
	const bitmaps = medium.bitmaps.map(
		bitmap =>
			`    bitmap ${printable(bitmap.name)}: ${formatBytes(bitmap.dirtyBytes)} dirty, ` +
			[
				`granularity ${formatBytes(bitmap.granularity)}`,
				bitmap.persistent ? 'persistent' : 'in memory',
				...(bitmap.inconsistent ? ['INCONSISTENT'] : []),
				...(bitmap.recording ? [] : ['disabled']),
				...(bitmap.busy ? ['busy'] : []),
			].join(', '),
	);
	return [head, ...reason, ...filters, ...chain, ...bitmaps];
}

function capabilityTable({capabilities}: VmReport): string {
	return formatTable(
		[
			{title: 'ABILITY', value: ({name}) => name},
			{title: '', value: ({available}) => (available ? 'yes' : 'no')},
			{title: 'FOR', value: ({available, note, since}) => (available ? note : `needs QEMU ${since}`)},
		],
		capabilities,
	);
}

function indent(text: string): string {
	return text.trimEnd().replaceAll(/^/gm, '  ');
}
