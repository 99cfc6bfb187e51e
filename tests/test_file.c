/* test_file.c: mapping, reading and replacing files. */
#include "scratch.h"

#include "io/names.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static void test_open(void) {
  ml_file *file;
  const char *path = scratch_file("some", "0123456789", 10);
  if (!CHECK_OK(ml_file_open(path, &file), "open")) return;
  CHECK(file->size == 10 && memcmp(file->data, "0123456789", 10) == 0 && strcmp(file->path, path) == 0, "the mapping");
  char to[4] = {0};
  CHECK_OK(ml_file_read(file, 6, to, 4), "read to the end");
  CHECK(memcmp(to, "6789", 4) == 0, "what was read");
  CHECK_FAILS(ml_file_read(file, 7, to, 4), ML_IO, path, "read beyond the end");
  CHECK_FAILS(ml_file_read(file, SIZE_MAX, to, 2), ML_IO, path, "read at an offset that overflows");
  ml_file_forget(file, 0, 10);
  ml_file_forget(file, 5, SIZE_MAX);
  CHECK(file->data[9] == '9', "a forgotten page comes back");
  CHECK_OK(ml_file_check(file), "the file is whole");
  CHECK(truncate(path, 3) == 0, "the file is cut");
  CHECK_FAILS(ml_file_check(file), ML_IO, "shrunk", "a file that shrank is noticed");
  CHECK_FAILS(ml_file_read(file, 2, to, 4), ML_IO, "shrunk", "a read past the new end is an error, no signal");
  ml_file_close(file);
  ml_file_close(NULL);
}

static void test_odd_files(void) {
  ml_file *file;
  CHECK_FAILS(ml_file_open(scratch_path("absent"), &file), ML_NOT_FOUND, "absent", "a missing file");
  CHECK_FAILS(ml_file_open(scratch_path("absent/x"), &file), ML_NOT_FOUND, "absent/x", "a missing folder");
  CHECK_FAILS(ml_file_open(scratch_folder, &file), ML_IO, "a directory", "a folder");
  const char *fifo = scratch_path("fifo");
  CHECK(mkfifo(fifo, 0600) == 0, "a FIFO is made");
  CHECK_FAILS(ml_file_open(fifo, &file), ML_IO, "fifo", "a FIFO does not block");
  if (CHECK_OK(ml_file_open(scratch_file("empty", "", 0), &file), "an empty file opens")) {
    CHECK(file->size == 0 && !file->data, "an empty file has no mapping");
    CHECK_OK(ml_file_read(file, 0, NULL, 0), "nothing is read from it");
    ml_file_close(file);
  }
  CHECK_OK(ml_file_from_memory("name", "abc", 3, &file), "bytes as a file");
  char to[2];
  CHECK_OK(ml_file_read(file, 1, to, 2), "read from memory");
  CHECK(memcmp(to, "bc", 2) == 0, "what was read from memory");
  CHECK_OK(ml_file_check(file), "memory does not shrink");
  ml_file_close(file);
}

static void test_slurp(void) {
  char *text;
  size_t size;
  const char *path = scratch_file("small", "a\0b", 3);
  if (CHECK_OK(ml_file_slurp(path, 3, &text, &size), "slurp up to the limit")) {
    CHECK(size == 3 && memcmp(text, "a\0b", 4) == 0, "a NUL stands behind the text");
    ml_free(text);
  }
  CHECK_FAILS(ml_file_slurp(path, 2, &text, &size), ML_LIMIT, path, "slurp over the limit");
  CHECK_FAILS(ml_file_slurp(scratch_path("absent"), 9, &text, &size), ML_NOT_FOUND, "absent", "slurp a missing file");
  if (CHECK_OK(ml_file_slurp(scratch_file("empty", "", 0), 9, &text, &size), "slurp an empty file")) {
    CHECK(size == 0 && *text == '\0', "an empty text");
    ml_free(text);
  }
}

static bool holds(const char *path, const char *expected) {
  char *text;
  size_t size;
  if (ml_file_slurp(path, 1000, &text, &size) != ML_OK) return false;
  bool same = strcmp(text, expected) == 0;
  ml_free(text);
  return same;
}

static int files_in(const char *folder) {
  char command[400];
  snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
  FILE *pipe = popen(command, "r");
  int n = -1;
  if (pipe && fscanf(pipe, "%d", &n) != 1) n = -1;
  if (pipe) pclose(pipe);
  return n;
}

static void test_write(void) {
  const char *folder = scratch_path("out"), *path = scratch_path("out/file");
  struct stat info;
  CHECK(mkdir(folder, 0700) == 0, "a folder");
  umask(027);
  CHECK_OK(ml_file_write(path, "first", 5), "write");
  CHECK(holds(path, "first"), "the first text");
  CHECK(stat(path, &info) == 0 && (info.st_mode & 0777) == 0640, "the mode follows the umask");
  CHECK_OK(ml_file_write(path, "second", 6), "write again");
  CHECK(holds(path, "second"), "the second text");
  ml_file_writer w;
  CHECK_OK(ml_file_writer_open(&w, path), "a writer");
  CHECK_OK(ml_file_writer_put(&w, "third", 5), "put");
  CHECK(holds(path, "second"), "readers see the old file before the commit");
  ml_file_writer_abort(&w);
  ml_file_writer_abort(&w);
  CHECK(holds(path, "second") && files_in(folder) == 1, "abort leaves the old file and nothing else");
  ml_file_writer other;
  CHECK_OK(ml_file_writer_open(&w, path), "one writer");
  CHECK_OK(ml_file_writer_open(&other, path), "a second writer of the same path");
  CHECK_OK(ml_file_writer_put(&w, "one", 3), "put into the first");
  CHECK_OK(ml_file_writer_put(&other, "two", 3), "put into the second");
  CHECK_OK(ml_file_writer_commit(&other), "commit the second");
  CHECK_OK(ml_file_writer_commit(&w), "commit the first");
  ml_file_writer_abort(&w);
  CHECK(holds(path, "one") && files_in(folder) == 1, "the last commit stands");
  CHECK_FAILS(ml_file_write(scratch_path("absent/x"), "", 0), ML_NOT_FOUND, "absent/x", "write into a missing folder");
  CHECK_FAILS(ml_file_write(folder, "x", 1), ML_IO, folder, "write over a folder");
  CHECK(ml_path_exists(path) && !ml_path_exists(scratch_path("absent")), "which paths exist");
  CHECK(ml_path_is_directory(folder) && !ml_path_is_directory(path), "which are directories");
}

/* What is no regular file is written to, or refused, and stays what it is. */
static void test_write_elsewhere(void) {
  const char *pipe = scratch_path("out/pipe"), *target = scratch_path("out/target"), *link = scratch_path("out/link");
  struct stat info;
  char text[8] = "";
  CHECK(mkfifo(pipe, 0600) == 0, "a pipe");
  int fd = open(pipe, O_RDONLY | O_NONBLOCK);
  CHECK_OK(ml_file_write(pipe, "text", 4), "write to a pipe");
  CHECK(read(fd, text, sizeof text) == 4 && memcmp(text, "text", 4) == 0, "the pipe carried the text");
  CHECK(lstat(pipe, &info) == 0 && S_ISFIFO(info.st_mode), "it is a pipe still");
  close(fd);
  char *much = calloc(1, 1 << 20); /* more than a pipe holds, and its reader leaves */
  fd = open(pipe, O_RDONLY | O_NONBLOCK);
  ml_file_writer w;
  CHECK_OK(ml_file_writer_open(&w, pipe), "open the pipe");
  close(fd);
  CHECK_FAILS(ml_file_writer_put(&w, much, 1 << 20), ML_IO, pipe, "write to a pipe that nobody reads");
  ml_file_writer_abort(&w);
  free(much);
  unlink(pipe);
  CHECK_OK(ml_file_write(target, "first", 5), "a file");
  CHECK(symlink("target", link) == 0, "a link to it");
  CHECK_OK(ml_file_write(link, "second", 6), "write through the link");
  CHECK(lstat(link, &info) == 0 && S_ISLNK(info.st_mode) && holds(target, "second"),
        "the link stays, the file changed");
  unlink(target);
  CHECK_OK(ml_file_write(link, "third", 5), "write through a link to nothing");
  CHECK(lstat(link, &info) == 0 && S_ISLNK(info.st_mode) && holds(target, "third"),
        "the link stays, the file is there");
  unlink(link);
  unlink(target);
  CHECK(symlink("link", link) == 0, "a link to itself");
  CHECK_FAILS(ml_file_write(link, "x", 1), ML_IO, link, "write through it");
  unlink(link);
  if (mknod(pipe, S_IFCHR | 0600, makedev(1, 7)) != 0) return; /* a full disk, which only root can make */
  CHECK_FAILS(ml_file_write(pipe, "text", 4), ML_IO, pipe, "write to a full device");
  CHECK(lstat(pipe, &info) == 0 && S_ISCHR(info.st_mode), "it is a device still");
  unlink(pipe);
}

static void test_directory(void) {
  ml_names names = {0};
  const char *folder = scratch_path("folder");
  CHECK(mkdir(folder, 0700) == 0, "a folder is made");
  scratch_file("folder/b", "", 0), scratch_file("folder/a", "", 0), scratch_file("folder/.hidden", "", 0);
  CHECK_OK(ml_directory_names(folder, &names), "names of a folder");
  CHECK(names.count == 2 && strcmp(names.items[0], "a") == 0 && strcmp(names.items[1], "b") == 0,
        "sorted, none hidden");
  CHECK_OK(ml_names_add(&names, "a"), "a name twice");
  ml_names_sort(&names);
  CHECK(names.count == 2, "is kept once");
  ml_names_free(&names);
  CHECK(!names.items && names.count == 0, "an empty list");
  CHECK_FAILS(ml_directory_names(scratch_path("absent"), &names), ML_NOT_FOUND, "absent", "a missing folder");
  CHECK_FAILS(ml_directory_names(scratch_path("folder/a"), &names), ML_NOT_FOUND, "folder/a", "a file");
  uint64_t whole = ml_digest("moonlet", 7, ML_DIGEST_SEED);
  CHECK(ml_digest("let", 3, ml_digest("moon", 4, ML_DIGEST_SEED)) == whole, "a digest goes on");
  CHECK(ml_digest("a", 1, ML_DIGEST_SEED) == UINT64_C(0xaf63dc4c8601ec8c), "FNV-1a");
}

static ml_status refused(void *path) {
  ml_file *file;
  ml_names names = {0};
  char *text;
  size_t size;
  ML_TRY(ml_file_write(path, "text", 4));
  ML_TRY(ml_file_open(path, &file));
  ml_file_close(file);
  ML_TRY(ml_file_slurp(path, 100, &text, &size));
  ml_free(text);
  ml_status status = ml_directory_names(scratch_folder, &names);
  ml_names_free(&names);
  return status;
}

int main(void) {
  test_open();
  test_odd_files();
  test_slurp();
  test_write();
  test_write_elsewhere();
  test_directory();
  char path[512];
  snprintf(path, sizeof path, "%s", scratch_path("refused"));
  check_refusals(refused, path, "files");
  CHECK(files_in(scratch_folder) == 7, "no temporary is left in the folder");
  return check_done();
}
