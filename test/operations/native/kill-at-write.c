/*
 * Preloaded: kills the program in the middle of its nth write to a file, n being QUIESCE_TEST_KILL_AT_WRITE. A half of what
 * was to be written is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long written;

static int is_last(void)
{
	const char *at = getenv("QUIESCE_TEST_KILL_AT_WRITE");
	return at && atomic_fetch_add(&written, 1) + 1 == atol(at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
	ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
	if (!is_last())
		return real(fd, bytes, count, offset);
	real(fd, bytes, count / 2, offset);
	kill(getpid(), SIGKILL);
	return -1;
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
	ssize_t (*real)(int, const struct iovec *, int, off64_t) = dlsym(RTLD_NEXT, "pwritev64");
	if (!is_last())
		return real(fd, parts, count, offset);
	struct iovec half = {parts[0].iov_base, parts[0].iov_len / 2};
	real(fd, &half, 1, offset);
	kill(getpid(), SIGKILL);
	return -1;
}
