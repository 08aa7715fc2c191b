/** Opens the monitor at the path given, and prints what becomes of it. */
import {QmpConnection} from '../../src/qmp/connection.ts';

try {
	await QmpConnection.open({unix: process.argv[2] ?? ''});
	console.log('opened');
} catch (error) {
	console.log(String(error));
}
process.exit();
