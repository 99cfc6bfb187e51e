/* tokenizer_driver.c: runs a tokenizer over many strings, for comparison with the reference.
 *
 *     tokenizer_driver FOLDER|FILE.gguf < strings > results
 *     tokenizer_driver -t SECONDS FOLDER|FILE.gguf < strings     (prints seconds per pass over all strings, and
 * loading's)
 *
 * A string comes as its length (uint32) and its bytes. For each: ids with special tokens; without; with special-token
 * text read as text (each: count, ids); the first ids' text whole, and without special tokens (each: length, bytes);
 * one byte, 1 if streaming gave both texts as well, and no part of a character at any push. */
#include "io/utf8.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(ml_status status) {
  if (status == ML_OK) return;
  fprintf(stderr, "tokenizer_driver: %s\n", ml_error_message());
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static ml_tokenizer *load(const char *path) {
  ml_tokenizer *t;
  if (strlen(path) > 5 && strcmp(path + strlen(path) - 5, ".gguf") == 0) {
    ml_gguf *gguf;
    check(ml_gguf_open(path, &gguf));
    check(ml_tokenizer_from_gguf(gguf, &t));
    ml_gguf_close(gguf);
    return t;
  }
  ml_json_doc *tokenizer, *config = NULL;
  char file[4096];
  snprintf(file, sizeof file, "%s/tokenizer.json", path);
  check(ml_json_load(file, &tokenizer));
  snprintf(file, sizeof file, "%s/tokenizer_config.json", path);
  if (ml_path_exists(file)) check(ml_json_load(file, &config));
  check(ml_tokenizer_from_json(&(ml_tokenizer_docs){.tokenizer = tokenizer, .config = config}, &t));
  ml_json_close(tokenizer);
  ml_json_close(config);
  return t;
}

static void put(const void *data, size_t size, size_t count) {
  uint32_t n = (uint32_t)count;
  fwrite(&n, sizeof n, 1, stdout);
  fwrite(data, size, count, stdout);
}

static bool streams_alike(ml_tokenizer *t, const ml_ids *ids, bool skip, const ml_text *whole) {
  ml_stream *s;
  ml_text text = {0};
  bool good = true;
  check(ml_stream_open(t, skip, &s));
  for (size_t i = 0; i <= ids->count; i++) {
    size_t before = text.size;
    check(i < ids->count ? ml_stream_push(s, ids->items[i], &text) : ml_stream_finish(s, &text));
    for (size_t k = before, n; k < text.size; k += n) {
      n = ml_utf8_valid(text.bytes + k, text.size - k);
      good = good && n > 0;
      if (n == 0) break;
    }
  }
  good = good && text.size == whole->size && (text.size == 0 || memcmp(text.bytes, whole->bytes, text.size) == 0);
  ml_text_free(&text);
  ml_stream_close(s);
  return good;
}

static void run(ml_tokenizer *t, const char *text, size_t size) {
  static const ml_encode_options options[3] = {{true, true}, {false, true}, {false, false}};
  ml_ids ids[3] = {{0}};
  ml_text whole[2] = {{0}};
  unsigned char streamed = 1;
  for (int i = 0; i < 3; i++) {
    check(ml_tokenizer_encode(t, text, size, options[i], &ids[i]));
    put(ids[i].items, sizeof *ids[i].items, ids[i].count);
  }
  for (int i = 0; i < 2; i++) {
    check(ml_tokenizer_decode(t, ids[0].items, ids[0].count, i == 1, &whole[i]));
    put(whole[i].bytes, 1, whole[i].size);
    streamed &= streams_alike(t, &ids[0], i == 1, &whole[i]);
    ml_text_free(&whole[i]);
  }
  fputc(streamed, stdout);
  for (int i = 0; i < 3; i++) ml_ids_free(&ids[i]);
}

/* Passes over all strings until `seconds` are over; the time of the fastest. */
static double measure(ml_tokenizer *t, const ml_text *strings, size_t n, double seconds) {
  double best = 1e9, begin = now();
  ml_ids ids = {0};
  do {
    double start = now();
    for (size_t i = 0; i < n; i++) {
      ids.count = 0;
      check(ml_tokenizer_encode(t, strings[i].bytes, strings[i].size, (ml_encode_options){true, true}, &ids));
    }
    double took = now() - start;
    if (took < best) best = took;
  } while (now() - begin < seconds);
  ml_ids_free(&ids);
  return best;
}

int main(int argc, char **argv) {
  bool timed = argc == 4 && strcmp(argv[1], "-t") == 0;
  if (argc != 2 && !timed)
    return fprintf(stderr, "usage: tokenizer_driver [-t SECONDS] FOLDER|FILE.gguf < strings\n"), 2;
  double start = now();
  ml_tokenizer *t = load(argv[argc - 1]);
  double loaded = now() - start;
  ml_text *strings = NULL;
  size_t n = 0, capacity = 0;
  uint32_t size;
  while (fread(&size, sizeof size, 1, stdin) == 1) {
    ml_text text = {.bytes = malloc((size_t)size + 1), .size = size};
    if (!text.bytes || fread(text.bytes, 1, size, stdin) != size)
      return fprintf(stderr, "tokenizer_driver: cut short\n"), 1;
    if (timed) {
      check(ML_GROW(strings, capacity, n + 1));
      strings[n++] = text;
    } else {
      run(t, text.bytes, size);
      free(text.bytes);
    }
  }
  if (timed) printf("%.6f %.6f\n", measure(t, strings, n, atof(argv[2])), loaded);
  for (size_t i = 0; i < n; i++) free(strings[i].bytes);
  ml_free(strings);
  ml_tokenizer_close(t);
  return 0;
}
