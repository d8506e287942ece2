/* Stands between a process and the C library, and writes each file that was synced, by its path, to the file SYNC_WATCH. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(int synced)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", synced);
    ssize_t length = readlink(link, path, sizeof path - 1);
    int out = open(getenv("SYNC_WATCH"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (length > 0 && out >= 0)
        dprintf(out, "synced %.*s\n", (int)length, path);
    close(out);
}

int fdatasync(int file)
{
    int failed = (int)syscall(SYS_fdatasync, file);
    if (!failed)
        tell(file);
    return failed;
}

int fsync(int file)
{
    int failed = (int)syscall(SYS_fsync, file);
    if (!failed)
        tell(file);
    return failed;
}
