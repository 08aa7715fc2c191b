/**
 * Before a command line: runs it as our own user, but for root without what lets it open what its permissions forbid.
 * Another user could not read a clone in a home folder.
 */
export const withoutPrivilege: readonly string[] =
	process.getuid?.() === 0 ? ['setpriv', '--bounding-set', '-dac_override,-dac_read_search'] : [];
