/* A disk that fails on demand, and a record of what a loss of power would take away. Preloaded into the storage node (LD_PRELOAD).
 *
 *   PENSTOCK_FAULTS         file of `struct control`, shared with the test, which arms and disarms faults while the process runs
 *   PENSTOCK_FAULTS_FOLDER  the data folder, as realpath() has it; nothing else is touched
 *   PENSTOCK_FAULTS_RECORD  where the record goes (see power.rs)
 *   PENSTOCK_FAULTS_SEED    of the dice
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* In the order of `Fault` in faults.rs. */
enum fault {
    DATA_SYNC, INDEX_SYNC, FOLDER_SYNC, DATA_FULL, DATA_WRITE, SHORT_WRITE, INDEX_FULL, INDEX_WRITE, INDEX_GROW, RENAME, REMOVE, LIE, FAULTS
};

struct control {
    /* In parts of 65536. */
    _Atomic uint32_t chance[FAULTS];
    _Atomic uint32_t happened[FAULTS];
};

enum place { ELSEWHERE, INDEX, TMP, DATA, FOLDER };

static struct control *control;
static char folder[PATH_MAX];
static size_t folder_length;
static int record = -1;
static _Atomic uint64_t dice;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_ftruncate)(int, off_t);
static int (*real_fadvise)(int, off_t, off_t, int);

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fadvise = dlsym(RTLD_NEXT, "posix_fadvise64");
    const char *path = getenv("PENSTOCK_FAULTS"), *where = getenv("PENSTOCK_FAULTS_FOLDER");
    const char *kept = getenv("PENSTOCK_FAULTS_RECORD"), *seed = getenv("PENSTOCK_FAULTS_SEED");
    if (!path || !where || !kept || !seed) return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    record = open(kept, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (file < 0 || mapped == MAP_FAILED || record < 0) {
        fprintf(stderr, "faults: %s or %s cannot be used\n", path, kept);
        abort();
    }
    close(file);
    folder_length = (size_t)snprintf(folder, sizeof folder, "%s/", where);
    dice = strtoull(seed, NULL, 10);
    control = mapped;
}

static uint64_t thrown(void) {
    uint64_t z = atomic_fetch_add(&dice, 0x9e3779b97f4a7c15) + 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static int happens(enum fault fault) {
    uint32_t chance = control->chance[fault];
    if (!chance || (thrown() & 0xffff) >= chance) return 0;
    atomic_fetch_add(&control->happened[fault], 1);
    return 1;
}

static int fails(enum fault fault, int number) {
    if (!happens(fault)) return 0;
    errno = number;
    return 1;
}

static enum place place_of(const char *path) {
    if (strncmp(path, folder, folder_length)) return ELSEWHERE;
    path += folder_length;
    if (!strcmp(path, "index.redb")) return INDEX;
    if (!strncmp(path, "tmp/", 4)) return TMP;
    if (!strncmp(path, "data/", 5)) return strlen(path) == 7 ? FOLDER : DATA;
    return ELSEWHERE;
}

static enum place place_of_fd(int fd, char *path) {
    char link[32];
    if (!control) return ELSEWHERE;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return ELSEWHERE;
    path[length] = 0;
    return place_of(path);
}

/* One write, so that a kill leaves a whole entry or none. */
static void note(char kind, uint64_t number, const void *bytes, uint64_t length) {
    char *entry = malloc(17 + length);
    if (!entry) abort();
    entry[0] = kind;
    memcpy(entry + 1, &number, 8);
    memcpy(entry + 9, &length, 8);
    if (length) memcpy(entry + 17, bytes, length);
    if (real_write(record, entry, 17 + length) != (ssize_t)(17 + length)) abort();
    free(entry);
}

/* Data files with bytes that are not on disk, by inode: 2 written to, 1 being synced since, 0 on disk. */
static struct { _Atomic uint64_t inode; _Atomic int state; } files[1 << 16];

static _Atomic int *state_of(int fd, uint64_t *inode) {
    struct stat64 facts;
    if (fstat64(fd, &facts)) return NULL;
    *inode = facts.st_ino;
    for (uint64_t at = facts.st_ino;; at++) {
        uint64_t found = files[at & 0xffff].inode;
        if (found == facts.st_ino) return &files[at & 0xffff].state;
        if (!found && atomic_compare_exchange_strong(&files[at & 0xffff].inode, &found, facts.st_ino))
            return &files[at & 0xffff].state;
    }
}

static void dirty(int fd) {
    uint64_t inode;
    _Atomic int *state = state_of(fd, &inode);
    if (state && atomic_exchange(state, 2) == 0) note('D', inode, NULL, 0);
}

/* Pages of the index as they are on disk, where the kernel shows others: those not synced yet, and those that never will be. */
static struct { char *on_disk; int lost; } pages[1 << 16];
static pthread_mutex_t pages_lock = PTHREAD_MUTEX_INITIALIZER;

static void pages_written(off_t from, const char *before, size_t length) {
    pthread_mutex_lock(&pages_lock);
    for (size_t at = 0; at < length; at += 4096) {
        size_t page = (size_t)from / 4096 + at / 4096;
        if (page >= sizeof pages / sizeof *pages) abort();
        /* A lost page that is written again will be synced again. */
        pages[page].lost = 0;
        if (pages[page].on_disk) continue;
        pages[page].on_disk = malloc(4096);
        if (!pages[page].on_disk) abort();
        memcpy(pages[page].on_disk, before + at, 4096);
    }
    pthread_mutex_unlock(&pages_lock);
}

static void pages_synced(int well) {
    pthread_mutex_lock(&pages_lock);
    for (size_t page = 0; page < sizeof pages / sizeof *pages; page++) {
        if (!pages[page].on_disk || pages[page].lost) continue;
        if (well) {
            free(pages[page].on_disk);
            pages[page].on_disk = NULL;
        } else if (thrown() & 1) {
            pages[page].lost = 1;
            note('F', page, NULL, 0);
        }
    }
    if (well) note('S', 0, NULL, 0);
    pthread_mutex_unlock(&pages_lock);
}

/* The kernel forgets what it took for clean: what was lost shows. */
static void pages_dropped(int fd) {
    struct stat64 facts;
    if (fstat64(fd, &facts)) abort();
    pthread_mutex_lock(&pages_lock);
    for (size_t page = 0; page < sizeof pages / sizeof *pages; page++) {
        if (!pages[page].lost) continue;
        off_t at = (off_t)page * 4096;
        if (at + 4096 <= facts.st_size && real_pwrite(fd, pages[page].on_disk, 4096, at) != 4096) abort();
        free(pages[page].on_disk);
        pages[page].on_disk = NULL;
        pages[page].lost = 0;
    }
    pthread_mutex_unlock(&pages_lock);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    char path[PATH_MAX];
    if (!real_write) return syscall(SYS_write, fd, bytes, length);
    if (place_of_fd(fd, path) != TMP) return real_write(fd, bytes, length);
    if (fails(DATA_FULL, ENOSPC) || fails(DATA_WRITE, EIO)) return -1;
    dirty(fd);
    if (length > 1 && happens(SHORT_WRITE)) length = 1 + thrown() % (length - 1);
    return real_write(fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    char path[PATH_MAX];
    if (place_of_fd(fd, path) != INDEX) return real_pwrite(fd, bytes, length, offset);
    if (fails(INDEX_FULL, ENOSPC) || fails(INDEX_WRITE, EIO)) return -1;
    if (length > 1 && happens(SHORT_WRITE)) length = 1 + thrown() % (length - 1);
    /* Whole pages, as the kernel writes them back. */
    off_t from = offset & ~(off_t)4095;
    size_t whole = (size_t)(((offset + (off_t)length + 4095) & ~(off_t)4095) - from);
    char *before = calloc(1, whole);
    if (!before) abort();
    for (size_t at = 0; at < whole;) {
        ssize_t got = pread(fd, before + at, whole - at, from + (off_t)at);
        if (got <= 0) break;
        at += (size_t)got;
    }
    note('W', (uint64_t)from, before, whole);
    pages_written(from, before, whole);
    free(before);
    return real_pwrite(fd, bytes, length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return pwrite64(fd, bytes, length, offset);
}

static int sync_(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    switch (place_of_fd(fd, path)) {
    case INDEX:
        if (happens(LIE)) return 0;
        if (fails(INDEX_SYNC, EIO)) {
            pages_synced(0);
            errno = EIO;
            return -1;
        }
        if (real(fd)) return -1;
        pages_synced(1);
        return 0;
    case TMP: {
        uint64_t inode;
        _Atomic int *state = state_of(fd, &inode);
        int written = 2;
        if (happens(LIE)) return 0;
        if (fails(DATA_SYNC, EIO)) {
            note('Q', state_of(fd, &inode) ? inode : 0, NULL, 0);
            errno = EIO;
            return -1;
        }
        if (state) atomic_compare_exchange_strong(state, &written, 1);
        if (real(fd)) return -1;
        written = 1;
        if (state && atomic_compare_exchange_strong(state, &written, 0)) note('C', inode, NULL, 0);
        return 0;
    }
    case FOLDER:
        if (happens(LIE)) return 0;
        if (fails(FOLDER_SYNC, EIO)) {
            note('P', strtoull(path + strlen(path) - 2, NULL, 16), NULL, 0);
            errno = EIO;
            return -1;
        }
        if (real(fd)) return -1;
        note('O', strtoull(path + strlen(path) - 2, NULL, 16), NULL, 0);
        return 0;
    default:
        return real(fd);
    }
}

int fsync(int fd) { return sync_(fd, real_fsync); }

int fdatasync(int fd) { return sync_(fd, real_fdatasync); }

int rename(const char *from, const char *to) {
    if (!control || place_of(to) != DATA) return real_rename(from, to);
    int broken = happens(RENAME);
    /* A failure may come before the deed or after it. */
    if (!broken || thrown() & 1) {
        struct stat64 facts;
        if (stat64(from, &facts) || real_rename(from, to)) return -1;
        note('N', facts.st_ino, to + folder_length, strlen(to + folder_length));
    }
    if (!broken) return 0;
    errno = EIO;
    return -1;
}

int unlink(const char *path) {
    if (!control || place_of(path) == ELSEWHERE) return real_unlink(path);
    if (fails(REMOVE, EIO)) return -1;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t inode;
    _Atomic int *state = file < 0 ? NULL : state_of(file, &inode);
    if (state) {
        *state = 0;
        note('X', inode, NULL, 0);
    }
    if (file >= 0) close(file);
    return real_unlink(path);
}

int ftruncate64(int fd, off_t length) {
    char path[PATH_MAX];
    if (place_of_fd(fd, path) == INDEX && fails(INDEX_GROW, ENOSPC)) return -1;
    return real_ftruncate(fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int posix_fadvise64(int fd, off_t offset, off_t length, int advice) {
    char path[PATH_MAX];
    if (advice == POSIX_FADV_DONTNEED && place_of_fd(fd, path) == INDEX) pages_dropped(fd);
    return real_fadvise(fd, offset, length, advice);
}

int posix_fadvise(int fd, off_t offset, off_t length, int advice) { return posix_fadvise64(fd, offset, length, advice); }
