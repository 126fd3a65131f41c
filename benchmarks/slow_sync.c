/* Loaded before the C library: makes each fsync and fdatasync of a process take SLOW_SYNC_US longer, as on a disk
   that is farther away. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int later(const char *name, int file) {
    const char *given = getenv("SLOW_SYNC_US");
    long microseconds = given ? atol(given) : 4000;
    struct timespec pause = {microseconds / 1000000, microseconds % 1000000 * 1000};
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    nanosleep(&pause, NULL);
    return real(file);
}

int fsync(int file) { return later("fsync", file); }
int fdatasync(int file) { return later("fdatasync", file); }
