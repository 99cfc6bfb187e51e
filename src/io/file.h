/* file.h: a file mapped for reading.
 *
 * The mapping is private and read-only. A file that shrinks under its mapping would raise SIGBUS; ml_file_check
 * compares the size with that at opening and is called before long reads, and ml_file_read copies with pread, so that
 * it reports the loss as ML_IO instead. */
#ifndef ML_IO_FILE_H
#define ML_IO_FILE_H

#include "base/mem.h"

typedef struct ml_file {
  char *path;
  const uint8_t *data; /* the mapping; NULL for an empty file */
  size_t size;         /* bytes at opening */
  int fd;              /* -1 for borrowed memory */
} ml_file;

/* Opens and maps. ML_NOT_FOUND or ML_IO name the path. */
ml_status ml_file_open(const char *path, ml_file **out);
/* Bytes in memory seen as a file: borrowed, not freed at closing. `name` stands for the path in messages. */
ml_status ml_file_from_memory(const char *name, const void *data, size_t size, ml_file **out);
void ml_file_close(ml_file *file);
/* ML_IO when the file is now shorter than at opening. */
ml_status ml_file_check(const ml_file *file);
/* Copies `bytes` at `offset` into `to` with pread; ML_IO on a short read. */
ml_status ml_file_read(const ml_file *file, size_t offset, void *to, size_t bytes);
/* Tells the system that these bytes of the mapping are no longer wanted, so that a loader does not hold file and
 * weights at once. */
void ml_file_forget(const ml_file *file, size_t offset, size_t bytes);
/* Reads a whole small file (at most `limit` bytes, else ML_LIMIT) into memory from ml_alloc, with a NUL behind it that
 * `*size` does not count. */
ml_status ml_file_slurp(const char *path, size_t limit, char **text, size_t *size);
/* Writes `bytes` to a temporary beside `path` and renames it over `path`: readers see the old file or the new one. A
 * symbolic link stays, and what it leads to is replaced; a device or a pipe is written to. */
ml_status ml_file_write(const char *path, const void *data, size_t bytes);

/* The same in pieces: what is put goes to the temporary; commit syncs and renames it, abort (harmless after a commit,
 * or on a zeroed writer) removes it. After a failure only abort is of use. */
typedef struct ml_file_writer {
  char *path, *temporary; /* NULL: the path is no regular file, and is written itself */
  int fd;
} ml_file_writer;
ml_status ml_file_writer_open(ml_file_writer *w, const char *path);
ml_status ml_file_writer_put(ml_file_writer *w, const void *data, size_t bytes);
ml_status ml_file_writer_commit(ml_file_writer *w);
void ml_file_writer_abort(ml_file_writer *w);

/* 64-bit FNV-1a of bytes, on top of a digest of what came before (ML_DIGEST_SEED: nothing): tells apart what nobody has
 * forged. */
#define ML_DIGEST_SEED UINT64_C(0xcbf29ce484222325)
uint64_t ml_digest(const void *data, size_t size, uint64_t seed);

bool ml_path_exists(const char *path);
bool ml_path_is_directory(const char *path);
/* The absolute path without links and dots: into buf (PATH_MAX), NULL where there is no such path. */
const char *ml_path_real(const char *path, char *buf);

#endif
