/* A clock that jumps, for the processes of one sandbox. Two programs in one file:
 *
 * with -DLAUNCHER    runs REAL under the name it was called by, with SHIM preloaded: the Python that
 *                    everything of the sandbox is started with, whose environments are all made anew
 * otherwise          that SHIM: the time of day is off by the seconds in CLOCK, a file of eight bytes
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifdef LAUNCHER
int main(int count, char **arguments) {
    (void)count;
    setenv("LD_PRELOAD", SHIM, 1);
    execv(REAL, arguments);
    return 127;
}
#else
static long nothing;
static volatile long *offset = &nothing;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(CLOCK, O_RDONLY);
    void *page = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) offset = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}
#endif
