/* fuzz_tokenizer.c: any bytes as a tokenizer and a text: a tokenizer.json (or a GGUF file) up to the first NUL byte
 * that follows '}' (GGUF: up to the last NUL), then the text. What loads must encode any text, decode its ids to UTF-8,
 * and stream the same. */
#include "io/gguf.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition) {
  if (!condition) __builtin_trap();
}

static void decode(ml_tokenizer *t, const ml_ids *ids, bool skip) {
  ml_text whole = {0}, streamed = {0};
  ml_stream *s;
  if (ml_stream_open(t, skip, &s) != ML_OK) return;
  ml_status status = ml_tokenizer_decode(t, ids->items, ids->count, skip, &whole);
  ml_status stream_status = ML_OK;
  for (size_t i = 0; stream_status == ML_OK && i < ids->count; i++) {
    stream_status = ml_stream_push(s, ids->items[i], &streamed);
    must(ml_utf8_prefix(streamed.bytes, streamed.size) == streamed.size);
  }
  if (stream_status == ML_OK) stream_status = ml_stream_finish(s, &streamed);
  must(status == stream_status);
  if (status == ML_OK) {
    must(whole.size == streamed.size && (whole.size == 0 || memcmp(whole.bytes, streamed.bytes, whole.size) == 0));
    must(ml_utf8_prefix(whole.bytes, whole.size) == whole.size);
  }
  ml_stream_close(s);
  ml_text_free(&whole);
  ml_text_free(&streamed);
}

static void run(ml_tokenizer *t, const char *text, size_t size) {
  for (unsigned k = 0; k < 4; k++) {
    ml_ids ids = {0};
    ml_encode_options options = {k & 1, k & 2};
    if (ml_tokenizer_encode(t, text, size, options, &ids) == ML_OK) {
      for (size_t i = 0; i < ids.count; i++) {
        size_t n;
        must(ml_tokenizer_piece(t, ids.items[i], &n) != NULL);
      }
      decode(t, &ids, k & 1);
    }
    ml_ids_free(&ids);
  }
  size_t n;
  ml_tokenizer_eos(t, &n);
  must(ml_tokenizer_bos(t) < ml_tokenizer_vocab_size(t));
}

static ml_status load_gguf(const uint8_t *data, size_t size, ml_tokenizer **out) {
  ml_file *file;
  ml_gguf *gguf;
  ML_TRY(ml_file_from_memory("fuzz", data, size, &file));
  ML_TRY(ml_gguf_parse(file, &gguf));
  ml_status status = ml_tokenizer_from_gguf(gguf, out);
  ml_gguf_close(gguf);
  return status;
}

static ml_status load_json(const char *text, size_t size, ml_tokenizer **out) {
  ml_json_doc *doc;
  ML_TRY(ml_json_parse(text, size, "fuzz", &doc));
  ml_status status = ml_tokenizer_from_json(&(ml_tokenizer_docs){.tokenizer = doc}, out);
  ml_json_close(doc);
  return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *bytes = (const char *)data;
  bool gguf = size > 4 && memcmp(data, "GGUF", 4) == 0;
  const char *cut = gguf ? memrchr(bytes, '\0', size) : memmem(bytes, size, "}", 2);
  size_t head = cut ? (size_t)(cut - bytes) + 1 : size, tail = cut ? head + !gguf : size;
  ml_tokenizer *t;
  if ((gguf ? load_gguf(data, head, &t) : load_json(bytes, head, &t)) != ML_OK) return 0;
  run(t, bytes + tail, size - tail);
  ml_tokenizer_close(t);
  return 0;
}
