/* test_tokenizer_golden.c: real tokenizers against what the reference made of a few hundred texts
 * (tests/goldens/tokenizers, written by tests/tools/make_tokenizer_goldens.py). Each is skipped where it is not to be
 * had. */
#include "check.h"
#include "text/tokenizer.h"

typedef struct golden {
  ml_json_doc *texts, *doc;
  const ml_json *root;
} golden;

static bool open_golden(const char *name, golden *g) {
  char path[200];
  snprintf(path, sizeof path, "tests/goldens/tokenizers/%s.json", name);
  if (!CHECK_OK(ml_json_load("tests/goldens/tokenizers/texts.json", &g->texts), "texts")) return false;
  if (!CHECK_OK(ml_json_load(path, &g->doc), "golden of %s", name)) return false;
  g->root = ml_json_root(g->doc);
  return true;
}

static void close_golden(golden *g) {
  ml_json_close(g->texts);
  ml_json_close(g->doc);
}

/* Appends the integers of a JSON array. */
static void push_all(const ml_json *list, ml_ids *ids) {
  for (size_t i = 0; i < ml_json_length(list); i++) {
    if (ML_GROW(ids->items, ids->capacity, ids->count + 1) != ML_OK) return;
    ids->items[ids->count++] = (int32_t)ml_json_int(ml_json_at(list, i));
  }
}

/* Whether `ids` are prefix, list and suffix (both may be NULL). */
static bool equal(const ml_ids *ids, const ml_json *prefix, const ml_json *list, const ml_json *suffix) {
  ml_ids wanted = {0};
  push_all(prefix, &wanted), push_all(list, &wanted), push_all(suffix, &wanted);
  bool same = ids->count == wanted.count &&
              (ids->count == 0 || memcmp(ids->items, wanted.items, ids->count * sizeof *ids->items) == 0);
  ml_ids_free(&wanted);
  return same;
}

static uint32_t crc32_of(const ml_text *text) {
  uint32_t crc = ~UINT32_C(0);
  for (size_t i = 0; i < text->size; i++) {
    crc ^= (unsigned char)text->bytes[i];
    for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0xedb88320) : 0);
  }
  return ~crc;
}

static bool decodes(ml_tokenizer *t, const ml_ids *ids, bool skip, const ml_json *crc) {
  ml_text text = {0}, streamed = {0};
  ml_stream *s = NULL;
  ml_status status = ml_tokenizer_decode(t, ids->items, ids->count, skip, &text);
  if (status == ML_OK) status = ml_stream_open(t, skip, &s);
  for (size_t i = 0; status == ML_OK && i < ids->count; i++) status = ml_stream_push(s, ids->items[i], &streamed);
  if (status == ML_OK) status = ml_stream_finish(s, &streamed);
  bool good =
      status == ML_OK && crc32_of(&text) == (uint32_t)ml_json_int(crc) && crc32_of(&streamed) == crc32_of(&text);
  ml_stream_close(s);
  ml_text_free(&text);
  ml_text_free(&streamed);
  return good;
}

typedef struct tally { /* texts that differ, and the first of them */
  size_t bad, first;
} tally;

static void count_bad(tally *c, bool good, size_t i) {
  if (good) return;
  if (c->bad++ == 0) c->first = i;
}

static void check_text(ml_tokenizer *t, const golden *g, size_t i, bool special, tally counts[5]) {
  static const ml_encode_options options[3] = {{true, true}, {false, true}, {false, false}};
  const ml_json *list = ml_json_at(ml_json_get(g->root, "ids"), i);
  char key[24];
  size_t size;
  const char *text = ml_json_string(ml_json_at(ml_json_root(g->texts), i), &size);
  ml_ids ids[3] = {{0}};
  for (int k = 0; k < 3; k++) {
    if (ml_tokenizer_encode(t, text, size, options[k], &ids[k]) != ML_OK) count_bad(&counts[k], false, i);
  }
  count_bad(&counts[0], equal(&ids[0], ml_json_get(g->root, "prefix"), list, ml_json_get(g->root, "suffix")), i);
  count_bad(&counts[1], equal(&ids[1], NULL, list, NULL), i);
  snprintf(key, sizeof key, "%zu", i);
  const ml_json *as_text = ml_json_get(ml_json_get(g->root, "as_text"), key);
  if (special) count_bad(&counts[2], equal(&ids[2], NULL, as_text ? as_text : list, NULL), i);
  count_bad(&counts[3], decodes(t, &ids[0], false, ml_json_at(ml_json_get(g->root, "decoded"), i)), i);
  if (special) count_bad(&counts[4], decodes(t, &ids[0], true, ml_json_at(ml_json_get(g->root, "skipped"), i)), i);
  for (int k = 0; k < 3; k++) ml_ids_free(&ids[k]);
}

/* `special`: the tokenizer calls the same tokens special as the golden's. Takes the tokenizer over. */
static void check_golden(ml_tokenizer *t, const char *name, const char *golden_name, bool special) {
  static const char *const kinds[5] = {"ids with special tokens", "ids without", "special-token text as text",
                                       "decoded and streamed text", "the same without special tokens"};
  golden g = {0};
  tally counts[5] = {{0}};
  if (open_golden(golden_name, &g)) {
    size_t n = ml_json_length(ml_json_root(g.texts));
    CHECK(n > 200 && ml_json_length(ml_json_get(g.root, "ids")) == n, "%s: %zu texts", name, n);
    for (size_t i = 0; i < n; i++) check_text(t, &g, i, special, counts);
    for (int k = 0; k < 5; k++) {
      CHECK(counts[k].bad == 0, "%s: %s (%zu differ, first text %zu)", name, kinds[k], counts[k].bad, counts[k].first);
    }
  }
  close_golden(&g);
  ml_tokenizer_close(t);
}

static void test_json(const char *name) {
  const char *folder = check_tokenizer(name, name);
  if (!folder) return;
  char path[1200];
  ml_json_doc *doc = NULL, *config = NULL;
  ml_tokenizer *t = NULL;
  snprintf(path, sizeof path, "%s/tokenizer.json", folder);
  ml_status status = ml_json_load(path, &doc);
  snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
  if (status == ML_OK) status = ml_json_load(path, &config);
  if (status == ML_OK) status = ml_tokenizer_from_json(&(ml_tokenizer_docs){.tokenizer = doc, .config = config}, &t);
  ml_json_close(doc);
  ml_json_close(config);
  if (CHECK_OK(status, "%s loads", name)) check_golden(t, name, name, true);
}

static void test_gguf(const char *file, const char *golden_name, bool special) {
  const char *path = check_checkpoint(file, file);
  if (!path) return;
  ml_gguf *gguf = NULL;
  ml_tokenizer *t = NULL;
  ml_status status = ml_gguf_open(path, &gguf);
  if (status == ML_OK) status = ml_tokenizer_from_gguf(gguf, &t);
  ml_gguf_close(gguf);
  if (CHECK_OK(status, "%s loads", file)) check_golden(t, file, golden_name, special);
}

int main(void) {
  static const char *const names[] = {"gemma3", "gpt2", "llama3_1", "qwen2_5", "qwen3"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) test_json(names[i]);
  test_gguf("SmolLM2-135M-Instruct.gguf", "smollm2", true);
  test_gguf("gemma-3-270m.gguf", "gemma3",
            false); /* its <unusedN> and <mask> are control tokens, those of tokenizer.json are not */
  return check_done();
}
