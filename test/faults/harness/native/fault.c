/*
 * Faults of sockets and file systems that no ordinary program can cause.
 *
 *   fault cut PID PATH      shut down the connection of process PID to the Unix socket PATH, in both directions
 *   fault babble PID PATH   send bytes that mean nothing from process PID, which serves PATH, to its clients
 *   fault break FOLDER      the ext4 there goes down: whatever is done to it fails with EIO
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static const uint32_t EXT4_NOLOGFLUSH = 2;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "fault: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Whether `fd` is a connected socket with this path at its own end (serving) or at the other one. */
static int is_connection(int fd, const char *path, int serving)
{
	struct sockaddr_un address = {0};
	socklen_t length = sizeof(address);
	int listening = 0;
	socklen_t size = sizeof(listening);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 || listening)
		return 0;
	int failed = serving ? getsockname(fd, (struct sockaddr *)&address, &length)
			     : getpeername(fd, (struct sockaddr *)&address, &length);
	return failed == 0 && address.sun_family == AF_UNIX && !strcmp(address.sun_path, path);
}

static int for_connections(int pid, const char *path, int serving)
{
	static const char nonsense[] = "\xff{\"return\": [[[ \"nonsense\" }\n\x01\x02{\"return\": {\"a\": 1}}\n17\n";
	char folder[64];
	int found = 0;
	int process = (int)syscall(SYS_pidfd_open, pid, 0);
	if (process < 0)
		die("pidfd_open");
	snprintf(folder, sizeof(folder), "/proc/%d/fd", pid);
	DIR *fds = opendir(folder);
	if (!fds)
		die(folder);
	for (struct dirent *entry; (entry = readdir(fds));) {
		if (entry->d_name[0] == '.')
			continue;
		int fd = (int)syscall(SYS_pidfd_getfd, process, atoi(entry->d_name), 0);
		if (fd < 0)
			continue;
		if (is_connection(fd, path, serving)) {
			int failed = serving ? send(fd, nonsense, sizeof(nonsense) - 1, MSG_NOSIGNAL) < 0
					     : shutdown(fd, SHUT_RDWR) < 0;
			found += !failed;
		}
		close(fd);
	}
	return found;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "cut"))
		printf("%d\n", for_connections(atoi(argv[2]), argv[3], 0));
	else if (argc == 4 && !strcmp(argv[1], "babble"))
		printf("%d\n", for_connections(atoi(argv[2]), argv[3], 1));
	else if (argc == 3 && !strcmp(argv[1], "break")) {
		int fd = open(argv[2], O_RDONLY | O_DIRECTORY);
		if (fd < 0 || ioctl(fd, _IOR('X', 125, uint32_t), &EXT4_NOLOGFLUSH) < 0)
			die(argv[2]);
	} else {
		fprintf(stderr, "usage: see the head of fault.c\n");
		return 2;
	}
	return 0;
}
