/* file.c: mapped reading, whole reads, and writes that readers never see half done. */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_TEMPORARIES = 1000 }; /* names tried beside a path before giving up */

static ml_status fail_errno(const char *path, const char *doing) {
  ml_status status = errno == ENOENT || errno == ENOTDIR ? ML_NOT_FOUND : errno == ENOMEM ? ML_MEMORY : ML_IO;
  return ml_fail(status, "%s: %s: %s", path, doing, strerror(errno));
}

/* O_NONBLOCK keeps a FIFO from blocking the open; a regular file does not mind it. */
static ml_status open_regular(const char *path, int *fd, size_t *size) {
  *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (*fd < 0) return fail_errno(path, "cannot open");
  struct stat st;
  ml_status status = ML_OK;
  if (fstat(*fd, &st) != 0) {
    status = fail_errno(path, "cannot stat");
  } else if (!S_ISREG(st.st_mode)) {
    status = ml_fail(ML_IO, "%s: expected a file, found %s", path, S_ISDIR(st.st_mode) ? "a directory" : "a device");
  } else if ((uintmax_t)st.st_size > PTRDIFF_MAX) {
    status = ml_fail(ML_LIMIT, "%s: %jd bytes exceed the address space", path, (intmax_t)st.st_size);
  }
  if (status != ML_OK) {
    close(*fd);
    return status;
  }
  *size = (size_t)st.st_size;
  return ML_OK;
}

/* Reads until `bytes` are there or the file ends; *got says how many. */
static ml_status read_fully(int fd, const char *path, size_t offset, char *to, size_t bytes, size_t *got) {
  *got = 0;
  while (*got < bytes) {
    ssize_t n = pread(fd, to + *got, bytes - *got, (off_t)(offset + *got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(path, "cannot read");
    if (n == 0) break;
    *got += (size_t)n;
  }
  return ML_OK;
}

static ml_status map_file(ml_file *file) {
  ML_TRY(open_regular(file->path, &file->fd, &file->size));
  if (file->size == 0) return ML_OK;
  void *data = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, file->fd, 0);
  if (data != MAP_FAILED) {
    file->data = data;
    return ML_OK;
  }
  ml_status status = fail_errno(file->path, "cannot map");
  close(file->fd);
  return status;
}

static ml_status new_file(const char *path, ml_file **out) {
  ml_file *file = ml_calloc(1, sizeof *file);
  if (!file) return ML_MEMORY;
  file->fd = -1;
  file->path = ml_strdup(path);
  if (!file->path) {
    ml_free(file);
    return ML_MEMORY;
  }
  *out = file;
  return ML_OK;
}

ml_status ml_file_open(const char *path, ml_file **out) {
  ml_file *file;
  ML_TRY(new_file(path, &file));
  ml_status status = map_file(file);
  if (status != ML_OK) {
    ml_free(file->path);
    ml_free(file);
    return status;
  }
  *out = file;
  return ML_OK;
}

ml_status ml_file_from_memory(const char *name, const void *data, size_t size, ml_file **out) {
  ML_TRY(new_file(name, out));
  (*out)->data = size > 0 ? data : NULL;
  (*out)->size = size;
  return ML_OK;
}

void ml_file_close(ml_file *file) {
  if (!file) return;
  if (file->fd >= 0) {
    if (file->data) munmap((void *)(uintptr_t)file->data, file->size);
    close(file->fd);
  }
  ml_free(file->path);
  ml_free(file);
}

ml_status ml_file_check(const ml_file *file) {
  if (file->fd < 0) return ML_OK;
  struct stat st;
  if (fstat(file->fd, &st) != 0) return fail_errno(file->path, "cannot stat");
  if ((uintmax_t)st.st_size >= file->size) return ML_OK;
  return ml_fail(ML_IO, "%s: the file has shrunk: expected %zu bytes, found %jd", file->path, file->size,
                 (intmax_t)st.st_size);
}

ml_status ml_file_read(const ml_file *file, size_t offset, void *to, size_t bytes) {
  if (offset > file->size || bytes > file->size - offset) {
    return ml_fail(ML_IO, "%s: read of %zu bytes at %zu: the file has %zu", file->path, bytes, offset, file->size);
  }
  if (bytes == 0) return ML_OK;
  if (file->fd < 0) {
    memcpy(to, file->data + offset, bytes);
    return ML_OK;
  }
  size_t got;
  ML_TRY(read_fully(file->fd, file->path, offset, to, bytes, &got));
  if (got == bytes) return ML_OK;
  return ml_fail(ML_IO, "%s: the file has shrunk: expected %zu bytes at %zu, found %zu", file->path, bytes, offset,
                 got);
}

void ml_file_forget(const ml_file *file, size_t offset, size_t bytes) {
  if (file->fd < 0 || !file->data || offset > file->size || bytes > file->size - offset) return;
  /* Whole pages only: a page at the edge may hold a neighbour that is still wanted. */
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t first = offset + (page - offset % page) % page, last = (offset + bytes) / page * page;
  if (first < last) madvise((void *)(uintptr_t)(file->data + first), last - first, MADV_DONTNEED);
}

ml_status ml_file_slurp(const char *path, size_t limit, char **text, size_t *size) {
  int fd;
  size_t bytes, got = 0;
  ML_TRY(open_regular(path, &fd, &bytes));
  ml_status status = ML_OK;
  char *to = NULL;
  if (bytes > limit) {
    status = ml_fail(ML_LIMIT, "%s: expected at most %zu bytes, found %zu", path, limit, bytes);
  } else if (!(to = ml_alloc(bytes + 1))) {
    status = ML_MEMORY;
  } else {
    status = read_fully(fd, path, 0, to, bytes, &got);
  }
  close(fd);
  if (status != ML_OK) {
    ml_free(to);
    return status;
  }
  to[got] = '\0';
  *text = to;
  *size = got;
  return ML_OK;
}

static void writer_free(ml_file_writer *w) {
  ml_free(w->path);
  ml_free(w->temporary);
  *w = (ml_file_writer){.fd = -1};
}

/* O_EXCL and a number rather than mkstemp, which would give the file mode 0600 whatever the umask says. */
static ml_status create_temporary(ml_file_writer *w, size_t capacity) {
  for (int i = 0; i < MAX_TEMPORARIES; i++) {
    snprintf(w->temporary, capacity, "%s.%ld-%d.tmp", w->path, (long)getpid(), i);
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd >= 0) return ML_OK;
    if (errno != EEXIST) break;
  }
  return fail_errno(w->path, "cannot create");
}

/* The file that a path stands for: at the end of symbolic links, so that they stay, though it may not exist yet. */
static ml_status find_target(const char *path, char **target) {
  enum { MOST_LINKS = 40 };
  char at[PATH_MAX], link[PATH_MAX];
  if (strlen(path) >= sizeof at) return ml_fail(ML_IO, "%s: %s", path, strerror(ENAMETOOLONG));
  strcpy(at, path);
  for (int i = 0; i <= MOST_LINKS; i++) {
    ssize_t n = strncmp(at, "/dev/", 5) == 0 ? -1 : readlink(at, link, sizeof link - 1); /* /dev/stdout is no path */
    if (n < 0) {
      *target = ml_strdup(at);
      return *target ? ML_OK : ML_MEMORY;
    }
    link[n] = 0;
    char *slash = link[0] == '/' ? NULL : strrchr(at, '/'); /* a relative link begins where it lies */
    size_t folder = slash ? (size_t)(slash - at) + 1 : 0;
    if (folder + (size_t)n >= sizeof at) break;
    memcpy(at + folder, link, (size_t)n + 1);
  }
  return ml_fail(ML_IO, "%s: %s", path, strerror(ELOOP));
}

/* A device or a pipe is written to as it stands: a rename would put a file in its place. */
static bool is_stream(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

static ml_status open_stream(ml_file_writer *w) {
  w->fd = open(w->path, O_WRONLY | O_CLOEXEC);
  return w->fd >= 0 ? ML_OK : fail_errno(w->path, "cannot open");
}

ml_status ml_file_writer_open(ml_file_writer *w, const char *path) {
  *w = (ml_file_writer){.fd = -1};
  ml_status status = find_target(path, &w->path);
  if (status == ML_OK && is_stream(w->path)) {
    status = open_stream(w);
  } else if (status == ML_OK) {
    size_t capacity = strlen(w->path) + 48;
    w->temporary = ml_alloc(capacity);
    status = w->temporary ? create_temporary(w, capacity) : ML_MEMORY;
  }
  if (status != ML_OK) writer_free(w);
  return status;
}

/* write, but a pipe that nobody reads any more is an error and no signal, which would end the host. */
static ssize_t write_quietly(int fd, const char *from, size_t bytes) {
  sigset_t pipe, old, pending;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  sigpending(&pending);
  pthread_sigmask(SIG_BLOCK, &pipe, &old);
  ssize_t n = write(fd, from, bytes);
  int code = errno;
  if (n < 0 && code == EPIPE && !sigismember(&pending, SIGPIPE)) sigtimedwait(&pipe, NULL, &(struct timespec){0});
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  errno = code;
  return n;
}

ml_status ml_file_writer_put(ml_file_writer *w, const void *data, size_t bytes) {
  const char *from = data;
  while (bytes > 0) {
    ssize_t n = w->temporary ? write(w->fd, from, bytes) : write_quietly(w->fd, from, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(w->path, "cannot write");
    from += n;
    bytes -= (size_t)n;
  }
  return ML_OK;
}

/* The rename itself outlasts a power cut only once the directory is synced; a file system that cannot is let off. */
static void sync_directory(char *path) {
  char *slash = strrchr(path, '/');
  if (slash) *slash = '\0';
  int fd = open(slash == path ? "/" : slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

ml_status ml_file_writer_commit(ml_file_writer *w) {
  if (fsync(w->fd) != 0 && errno != EINVAL && errno != EROFS) return fail_errno(w->path, "cannot sync");
  int fd = w->fd;
  w->fd = -1;
  if (close(fd) != 0) return fail_errno(w->path, "cannot close");
  if (w->temporary) {
    if (rename(w->temporary, w->path) != 0) return fail_errno(w->path, "cannot replace");
    sync_directory(w->path);
  }
  writer_free(w);
  return ML_OK;
}

void ml_file_writer_abort(ml_file_writer *w) {
  if (!w->path) return; /* zeroed or committed */
  if (w->fd >= 0) close(w->fd);
  if (w->temporary) unlink(w->temporary);
  writer_free(w);
}

ml_status ml_file_write(const char *path, const void *data, size_t bytes) {
  ml_file_writer w;
  ML_TRY(ml_file_writer_open(&w, path));
  ml_status status = ml_file_writer_put(&w, data, bytes);
  if (status == ML_OK) status = ml_file_writer_commit(&w);
  ml_file_writer_abort(&w);
  return status;
}

uint64_t ml_digest(const void *data, size_t size, uint64_t seed) {
  const unsigned char *bytes = data;
  uint64_t h = seed;
  for (size_t i = 0; i < size; i++) h = (h ^ bytes[i]) * UINT64_C(0x100000001b3);
  return h;
}

bool ml_path_exists(const char *path) { return access(path, F_OK) == 0; }

bool ml_path_is_directory(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

const char *ml_path_real(const char *path, char *buf) { return realpath(path, buf); }
