/* Keeps a copy of each file as it was at its last fsync: what a disk holds after a power cut.
 *
 * Loaded with LD_PRELOAD. Files in the folder POWER_CUT_FROM are copied to the folder POWER_CUT_TO,
 * under the same name, when fsync or fdatasync succeeds and before it returns. A page that was
 * written and not synced is not in the copy.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Write the path of the copy into `copy`; return 0 for a file that is not in the folder. */
static int copy_path(const char *path, char copy[PATH_MAX])
{
    const char *from = getenv("POWER_CUT_FROM"), *to = getenv("POWER_CUT_TO");
    if (!from || !to)
        return 0;
    size_t length = strlen(from);
    if (strncmp(path, from, length) || path[length] != '/' || strchr(path + length + 1, '/'))
        return 0;
    return snprintf(copy, PATH_MAX, "%s/%s", to, path + length + 1) < PATH_MAX;
}

static void fail(const char *what)
{
    perror(what);
    abort(); /* a copy that is incomplete would make the test blind */
}

static void keep(int fd)
{
    char link[64], path[PATH_MAX], copy[PATH_MAX], bytes[1 << 16];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    struct stat about;
    if (!copy_path(path, copy) || fstat(fd, &about) || !S_ISREG(about.st_mode))
        return;
    pthread_mutex_lock(&lock);
    /* The file is opened anew: SQLite's descriptor may be open for writing only. No close of
     * a descriptor of the database itself: that would release SQLite's POSIX locks. So the reader
     * stays open until the process ends, one per file. */
    static struct { dev_t dev; ino_t ino; int fd; } readers[16];
    int reader = -1;
    for (int i = 0; i < 16 && reader < 0; i++) {
        if (!readers[i].fd) {
            readers[i].fd = open(link, O_RDONLY | O_CLOEXEC);
            readers[i].dev = about.st_dev;
            readers[i].ino = about.st_ino;
        }
        if (readers[i].dev == about.st_dev && readers[i].ino == about.st_ino)
            reader = readers[i].fd;
    }
    int out = open(copy, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (reader < 0 || out < 0)
        fail("power_cut: open");
    off_t at = 0;
    ssize_t got;
    while ((got = pread(reader, bytes, sizeof bytes, at)) > 0) {
        if (pwrite(out, bytes, got, at) != got)
            fail("power_cut: write");
        at += got;
    }
    if (got < 0 || ftruncate(out, at))
        fail("power_cut: copy");
    close(out);
    pthread_mutex_unlock(&lock);
}

static int synced(const char *name, int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real(fd), error = errno;
    if (!result)
        keep(fd);
    errno = error;
    return result;
}

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }

int unlink(const char *path)
{
    int (*real)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    char copy[PATH_MAX];
    int result = real(path), error = errno;
    if (!result && copy_path(path, copy))
        real(copy);
    errno = error;
    return result;
}
