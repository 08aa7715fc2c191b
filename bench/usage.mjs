// Preloaded into the measured program: writes what the process has used, at its end, to the file named by BENCH_USAGE.
import fs from 'node:fs';

if (process.env.BENCH_USAGE && process.argv[1]?.endsWith('quiesce.js')) {
	process.on('exit', () => {
		const {userCPUTime, systemCPUTime, maxRSS} = process.resourceUsage();
		fs.writeFileSync(
			process.env.BENCH_USAGE,
			JSON.stringify({cpuSeconds: (userCPUTime + systemCPUTime) / 1e6, peakMib: maxRSS / 1024}),
		);
	});
}
