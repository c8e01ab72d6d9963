/* Notes, in their order, what a process does to the files below POWER_ROOT, so that a test can play a power loss:
 * whatever wasn't synced by then may or may not be on the disk.
 *
 * Preloaded. Each call is made first and noted then, under one lock, so that the log's order is the disk's. What goes
 * to standard output is noted too: it is what the process promised by then. Memory maps aren't seen; SQLite's only one
 * is its -shm file, which doesn't outlive a power loss.
 *
 * An entry is a head (struct head) and its bytes. Kinds: C made a file, W wrote, T truncated, S synced a file,
 * D synced a directory, M made a directory, R renamed (old path, NUL, new path), U removed, A said.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct head {
  char kind;
  unsigned long file; /* its inode */
  unsigned long at;   /* the offset, or the size after a truncation */
  unsigned long length;
} __attribute__((packed));

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static const char *root;
static int journal = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
  root = getenv("POWER_ROOT");
  journal = (int)syscall(SYS_openat, AT_FDCWD, getenv("POWER_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void note(char kind, unsigned long file, unsigned long at, const void *bytes, size_t length) {
  struct head head = {kind, file, at, length};
  struct iovec pieces[2] = {{&head, sizeof head}, {(void *)bytes, length}};
  if (syscall(SYS_writev, journal, pieces, 2) != (long)(sizeof head + length)) abort();
}

static int is_below(const char *path) {
  return root && path && strncmp(path, root, strlen(root)) == 0;
}

/* Whether a descriptor is below the root, and its inode. */
static int is_watched(int fd, struct stat *found) {
  char link[64], path[PATH_MAX];
  int saved = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length > 0) path[length] = 0;
  int is = length > 0 && is_below(path) && fstat(fd, found) == 0;
  errno = saved;
  return is;
}

static int noted_open(int fd, const char *path, int is_new) {
  struct stat found;
  if (fd >= 0 && is_new && fstat(fd, &found) == 0) note('C', found.st_ino, 0, path, strlen(path));
  return fd;
}

#define OPENS(name, call)                                               \
  {                                                                     \
    mode_t mode = 0;                                                    \
    if (flags & O_CREAT) {                                              \
      va_list rest;                                                     \
      va_start(rest, flags);                                            \
      mode = va_arg(rest, mode_t);                                      \
      va_end(rest);                                                     \
    }                                                                   \
    pthread_mutex_lock(&lock);                                          \
    int is_new = (flags & O_CREAT) && is_below(path) && access(path, F_OK) != 0; \
    int fd = noted_open(REAL(name) call, path, is_new);                 \
    pthread_mutex_unlock(&lock);                                        \
    return fd;                                                          \
  }

int open(const char *path, int flags, ...) OPENS(open, (path, flags, mode))
int open64(const char *path, int flags, ...) OPENS(open64, (path, flags, mode))
int openat(int at, const char *path, int flags, ...) OPENS(openat, (at, path, flags, mode))
int openat64(int at, const char *path, int flags, ...) OPENS(openat64, (at, path, flags, mode))

static ssize_t noted_write(int fd, const void *bytes, ssize_t written, off_t at) {
  struct stat found;
  if (written > 0 && fd != journal && is_watched(fd, &found)) note('W', found.st_ino, at, bytes, written);
  return written;
}

ssize_t write(int fd, const void *bytes, size_t length) {
  pthread_mutex_lock(&lock);
  if (fd == STDOUT_FILENO) note('A', 0, 0, bytes, length);
  off_t before = lseek(fd, 0, SEEK_CUR);
  ssize_t written = REAL(write)(fd, bytes, length);
  off_t after = before < 0 ? 0 : lseek(fd, 0, SEEK_CUR); /* of a file that is appended to, too */
  noted_write(fd, bytes, written, after - (written > 0 ? written : 0));
  pthread_mutex_unlock(&lock);
  return written;
}

#define PWRITES(name)                                                        \
  ssize_t name(int fd, const void *bytes, size_t length, off_t at) {         \
    pthread_mutex_lock(&lock);                                               \
    ssize_t written = noted_write(fd, bytes, REAL(name)(fd, bytes, length, at), at); \
    pthread_mutex_unlock(&lock);                                             \
    return written;                                                          \
  }
PWRITES(pwrite)
PWRITES(pwrite64)

#define TRUNCATES(name)                                                          \
  int name(int fd, off_t size) {                                                 \
    struct stat found;                                                           \
    pthread_mutex_lock(&lock);                                                   \
    int failed = REAL(name)(fd, size);                                           \
    if (!failed && is_watched(fd, &found)) note('T', found.st_ino, size, "", 0); \
    pthread_mutex_unlock(&lock);                                                 \
    return failed;                                                               \
  }
TRUNCATES(ftruncate)
TRUNCATES(ftruncate64)

static void note_sync(int fd) {
  struct stat found;
  char link[64], path[PATH_MAX];
  if (!is_watched(fd, &found)) return;
  if (!S_ISDIR(found.st_mode)) {
    note('S', found.st_ino, 0, "", 0);
    return;
  }
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path);
  note('D', 0, 0, path, length);
}

#define SYNCS(name)                  \
  int name(int fd) {                 \
    pthread_mutex_lock(&lock);       \
    int failed = REAL(name)(fd);     \
    if (!failed) note_sync(fd);      \
    pthread_mutex_unlock(&lock);     \
    return failed;                   \
  }
SYNCS(fsync)
SYNCS(fdatasync)

int rename(const char *from, const char *to) {
  pthread_mutex_lock(&lock);
  int failed = REAL(rename)(from, to);
  if (!failed && is_below(to)) {
    char both[2 * PATH_MAX];
    int length = snprintf(both, sizeof both, "%s%c%s", from, 0, to);
    note('R', 0, 0, both, length);
  }
  pthread_mutex_unlock(&lock);
  return failed;
}

int unlink(const char *path) {
  pthread_mutex_lock(&lock);
  int failed = REAL(unlink)(path);
  if (!failed && is_below(path)) note('U', 0, 0, path, strlen(path));
  pthread_mutex_unlock(&lock);
  return failed;
}

int mkdir(const char *path, mode_t mode) {
  pthread_mutex_lock(&lock);
  int failed = REAL(mkdir)(path, mode);
  if (!failed && is_below(path)) note('M', 0, 0, path, strlen(path));
  pthread_mutex_unlock(&lock);
  return failed;
}
