/* test_tokenizer.c: small tokenizers made here, from JSON and from GGUF bytes. */
#include "check.h"
#include "io/gguf.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

#include <time.h>

/* --- making tokenizers --- */

/* What a tokenizer.json says beside its vocabulary; NULL is null. */
typedef struct recipe {
  const char *normalizer, *pre_tokenizer, *post_processor, *decoder;
  const char *added;   /* items of added_tokens */
  const char *options; /* of the model, each with a comma behind it */
  bool byte_level;     /* the vocabulary begins with the 256 printable bytes, else with <0x00>..<0xFF> */
  const char *pieces[16];
  const char *merges; /* items */
} recipe;

static void add(ml_text *t, const char *text) { ml_text_append(t, text, strlen(text)); }

static void add_field(ml_text *t, const char *key, const char *value) {
  add(t, "\""), add(t, key), add(t, "\":"), add(t, value ? value : "null"), add(t, ",");
}

static void add_piece(ml_text *t, const char *piece, size_t size, int id) {
  char number[16];
  ml_json_writer w = {0};
  ml_json_write_string(&w, piece, size);
  ml_text_append(t, w.text, w.size);
  ml_json_writer_free(&w);
  snprintf(number, sizeof number, ":%d", id);
  add(t, number);
}

static void write_json(const recipe *r, ml_text *t) {
  add(t, "{");
  add_field(t, "normalizer", r->normalizer);
  add_field(t, "pre_tokenizer", r->pre_tokenizer);
  add_field(t, "post_processor", r->post_processor);
  add_field(t, "decoder", r->decoder);
  add(t, "\"added_tokens\":["), add(t, r->added ? r->added : ""), add(t, "],\"model\":{\"type\":\"BPE\",");
  add(t, r->options ? r->options : ""), add(t, "\"vocab\":{");
  int id = 0;
  for (; id < 256; id++) {
    char piece[8];
    size_t size = r->byte_level ? ml_utf8_write(ml_byte_char((unsigned char)id), piece)
                                : (size_t)snprintf(piece, 8, "<0x%02X>", id);
    if (id) add(t, ",");
    add_piece(t, piece, size, id);
  }
  for (int i = 0; i < 16 && r->pieces[i]; i++) add(t, ","), add_piece(t, r->pieces[i], strlen(r->pieces[i]), id++);
  add(t, "},\"merges\":["), add(t, r->merges ? r->merges : ""), add(t, "]}}");
}

static ml_status from_text(const char *text, size_t size, const char *config, ml_tokenizer **out) {
  ml_json_doc *doc, *config_doc = NULL;
  *out = NULL;
  ML_TRY(ml_json_parse(text, size, "tokenizer.json", &doc));
  ml_status status = config ? ml_json_parse(config, strlen(config), "tokenizer_config.json", &config_doc) : ML_OK;
  if (status == ML_OK)
    status = ml_tokenizer_from_json(&(ml_tokenizer_docs){.tokenizer = doc, .config = config_doc}, out);
  ml_json_close(doc);
  ml_json_close(config_doc);
  return status;
}

static ml_status make(const recipe *r, const char *config, ml_tokenizer **out) {
  ml_text text = {0};
  write_json(r, &text);
  ml_status status = from_text(text.bytes, text.size, config, out);
  ml_text_free(&text);
  return status;
}

/* --- checks --- */

static bool same_ids(const ml_ids *ids, const int32_t *wanted, size_t n) {
  return ids->count == n && (n == 0 || memcmp(ids->items, wanted, n * sizeof *wanted) == 0);
}

static void check_encode(ml_tokenizer *t, const char *text, ml_encode_options options, const int32_t *wanted, size_t n,
                         const char *name) {
  ml_ids ids = {0};
  ml_status status = ml_tokenizer_encode(t, text, strlen(text), options, &ids);
  if (!CHECK(status == ML_OK && same_ids(&ids, wanted, n), "%s", name)) {
    printf("#");
    for (size_t i = 0; i < ids.count; i++) printf(" %d", (int)ids.items[i]);
    printf(" %s\n", status == ML_OK ? "" : ml_error_message());
  }
  ml_ids_free(&ids);
}
#define IDS(...) (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

static const ml_encode_options plain = {false, true}, whole = {true, true}, as_text = {false, false};

/* Decodes at once and as a stream. */
static void check_decode(ml_tokenizer *t, const int32_t *ids, size_t n, bool skip, const char *wanted,
                         const char *name) {
  ml_text text = {0}, streamed = {0};
  ml_stream *s = NULL;
  ml_status status = ml_tokenizer_decode(t, ids, n, skip, &text);
  if (status == ML_OK) status = ml_stream_open(t, skip, &s);
  bool characters = true;
  for (size_t i = 0; status == ML_OK && i < n; i++) {
    status = ml_stream_push(s, ids[i], &streamed);
    characters = characters && ml_utf8_prefix(streamed.bytes, streamed.size) == streamed.size;
  }
  if (status == ML_OK) status = ml_stream_finish(s, &streamed);
  size_t size = strlen(wanted);
  CHECK(status == ML_OK && text.size == size && (size == 0 || memcmp(text.bytes, wanted, size) == 0), "%s", name);
  CHECK(characters && streamed.size == size && (size == 0 || memcmp(streamed.bytes, wanted, size) == 0), "%s, streamed",
        name);
  ml_stream_close(s);
  ml_text_free(&text);
  ml_text_free(&streamed);
}

/* --- byte-level BPE --- */

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define TOKEN(id, text, more) "{\"id\":" #id ",\"content\":\"" text "\"" more "}"
#define SPECIAL ",\"special\":true,\"normalized\":false"
#define TEMPLATE                                                                                                       \
  "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}},"    \
  "{\"SpecialToken\":{\"id\":\"</s>\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[260]},\"</s>\":{\"ids\":[261]}}}"

static const recipe byte_recipe = {
    .pre_tokenizer = BYTE_LEVEL,
    .post_processor = "{\"type\":\"Sequence\",\"processors\":[" BYTE_LEVEL "," TEMPLATE "]}",
    .decoder = BYTE_LEVEL,
    .added = TOKEN(260, "<s>", SPECIAL) "," TOKEN(261, "</s>", SPECIAL) "," TOKEN(
        262, "[x]", ",\"lstrip\":true,\"single_word\":true"),
    .byte_level = true,
    .pieces = {"ab", "abab",
               "\xc4\xa0"
               "ab",
               "bab"},
    .merges = "\"a b\",[\"ab\",\"ab\"],\"\xc4\xa0 ab\",\"b ab\"",
};
static const char byte_config[] = "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},\"unk_token\":null}";

static void test_byte_level(void) {
  ml_tokenizer *t;
  if (!CHECK_OK(make(&byte_recipe, byte_config, &t), "a byte-level tokenizer")) return;
  check_encode(t, "abab", plain, IDS(257), "merges by rank");
  check_encode(t, "ababab", plain, IDS(257, 256), "from left to right");
  check_encode(t, "a ab", plain, IDS('a', 258), "words are apart");
  check_encode(t, "ab", whole, IDS(260, 256, 261), "the post-processor puts BOS in front and EOS behind");
  check_encode(t, "", whole, IDS(260, 261), "also round nothing");
  check_encode(t, "a<s>b", plain, IDS('a', 260, 'b'), "special text is a token");
  check_encode(t, "<s>", as_text, IDS('<', 's', '>'), "unless it is to be text");
  check_encode(t, "a  [x] [x]b", as_text, IDS('a', 262, ' ', '[', 'x', ']', 'b'),
               "lstrip, single_word; not special, so always found");
  check_encode(t, "\xff", plain, IDS(0xef, 0xbf, 0xbd), "invalid bytes are U+FFFD");
  check_decode(t, IDS(260, 258, 0xc3, 0xa9, 261), false, "<s> ab\xc3\xa9</s>", "decoding");
  check_decode(t, IDS(260, 258, 0xc3, 0xa9, 261), true, " ab\xc3\xa9", "without special tokens");
  check_decode(t, IDS(0xf0, 0x9f, 0x98, 0x80, 0xe2, 0x82), true, "\xf0\x9f\x98\x80\xef\xbf\xbd",
               "characters over tokens, a cut one at the end");
  size_t n;
  CHECK(ml_tokenizer_bos(t) == 260 && ml_tokenizer_adds_bos(t) && ml_tokenizer_vocab_size(t) == 263, "BOS, size");
  CHECK(ml_tokenizer_eos(t, &n)[0] == 261 && n == 1, "EOS");
  CHECK(ml_tokenizer_id(t, "abab", 4) == 257 && ml_tokenizer_id(t, "</s>", 4) == 261 &&
            ml_tokenizer_id(t, "q q", 3) == -1,
        "piece to id");
  const char *piece = ml_tokenizer_piece(t, 258, &n);
  CHECK(piece && n == 4 &&
            memcmp(piece,
                   "\xc4\xa0"
                   "ab",
                   4) == 0 &&
            !ml_tokenizer_piece(t, 263, &n),
        "id to piece");
  CHECK(ml_tokenizer_is_special(t, 260) && !ml_tokenizer_is_special(t, 262) && !ml_tokenizer_is_special(t, -1),
        "special or not");
  ml_text text = {0};
  CHECK_FAILS(ml_tokenizer_decode(t, IDS('a', -1), false, &text), ML_USAGE, "id -1, expected an id from 0",
              "a negative id");
  CHECK(text.size == 0, "leaves the text alone");
  ml_text_free(&text);
  check_decode(t, IDS('a', 263, 0xc3, INT32_MAX, 0xa9), false, "a\xc3\xa9", "ids behind the vocabulary have no text");
  ml_tokenizer_close(t);
}

/* --- SentencePiece-like BPE --- */

#define UNDERLINE "\xe2\x96\x81"
static const recipe char_recipe = {
    .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" UNDERLINE "\"},"
                  "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" UNDERLINE "\"}]}",
    .decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"" UNDERLINE
               "\"},\"content\":\" \"},"
               "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
               "\",\"start\":1,\"stop\":0}]}",
    .options = "\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\",",
    .added = TOKEN(256, "<unk>", SPECIAL),
    .pieces = {"<unk>", UNDERLINE, "a", "b", UNDERLINE "a", "ab", UNDERLINE UNDERLINE, ">", ">" UNDERLINE},
    .merges = "[\"" UNDERLINE "\",\"" UNDERLINE "\"],[\"" UNDERLINE "\",\"a\"],[\"a\",\"b\"],[\">\",\"" UNDERLINE "\"]",
};

static void test_characters(void) {
  ml_tokenizer *t;
  if (!CHECK_OK(make(&char_recipe, NULL, &t), "a tokenizer of characters")) return;
  check_encode(t, "ab ab", plain, IDS(260, 259, 260, 259), "underlines for spaces, one in front");
  check_encode(t, "a  b", plain, IDS(260, 262, 259), "two of them");
  check_encode(t, "b> b>", plain, IDS(257, 259, 264, 259, 263), "a merge across the end of a word");
  check_encode(t, "\xc3\xa9", plain, IDS(257, 0xc3, 0xa9), "byte fallback");
  check_encode(t, "<0x41>", plain, IDS(257, '<', '0', 'x', '4', '1', 263), "text that looks like a byte piece");
  check_decode(t, IDS(260, 259, 0xc3, 0xa9, 262, 0xc3), false, "ab\xc3\xa9  \xef\xbf\xbd", "decoding");
  CHECK(ml_tokenizer_bos(t) == -1 && !ml_tokenizer_adds_bos(t), "no BOS");
  ml_tokenizer_close(t);
}

/* A million equal characters, in words and as one word. */
static void test_runs(void) {
  enum { N = 1000000 };
  static const recipe *const recipes[] = {&byte_recipe, &char_recipe};
  char *run = malloc(N);
  for (int i = 0; i < 4; i++) {
    ml_tokenizer *t;
    ml_ids ids = {0};
    clock_t start = clock();
    if (make(recipes[i % 2], NULL, &t) != ML_OK) break;
    for (int k = 0; k < N; k++) run[k] = i < 2 ? 'a' : "ab"[k % 2];
    CHECK_OK(ml_tokenizer_encode(t, run, N, plain, &ids), "a million letters");
    CHECK(ids.count == (i == 0   ? N
                        : i == 1 ? N
                        : i == 2 ? N / 4
                                 : N / 2 + 1),
          "make the right pieces (%zu)", ids.count);
    CHECK(clock() - start < 10 * CLOCKS_PER_SEC, "in time that does not grow with the square");
    ml_ids_free(&ids);
    ml_tokenizer_close(t);
  }
  free(run);
}

/* --- refusals --- */

static void test_unsupported(void) {
  static const struct {
    recipe r;
    const char *name;
  } cases[] = {
      {{.normalizer = "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"\"}"}, "normalizer: Precompiled"},
      {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"}]}"}, "normalizer: Nmt"},
      {{.pre_tokenizer = "{\"type\":\"UnicodeScripts\"}"}, "pre_tokenizer: UnicodeScripts"},
      {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?<x>a)\"},\"behavior\":\"Isolated\"}"},
       "this kind of group"},
      {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Shuffled\"}"},
       "behavior Shuffled"},
      {{.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL "," BYTE_LEVEL "]}"},
       "second ByteLevel"},
      {{.post_processor = "{\"type\":\"Braces\"}"}, "post_processor: Braces"},
      {{.decoder = "{\"type\":\"WordPiece\"}"}, "decoder: WordPiece"},
      {{.options = "\"dropout\":0.5,"}, "dropout"},
      {{.options = "\"end_of_word_suffix\":\"</w>\","}, "end_of_word_suffix"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ml_tokenizer *t;
    CHECK_FAILS(make(&cases[i].r, NULL, &t), ML_UNSUPPORTED, cases[i].name, "refused by name: %s", cases[i].name);
    CHECK(!t && strncmp(ml_error_message(), "tokenizer.json: ", 16) == 0, "and the file is named");
  }
}

static void test_corrupt(void) {
  static const struct {
    const char *json;
    ml_status status;
    const char *message;
  } cases[] = {
      {"[]", ML_CORRUPT, "expected an object"},
      {"{}", ML_CORRUPT, "model"},
      {"{\"model\":{\"type\":\"Unigram\"}}", ML_UNSUPPORTED, "model: Unigram"},
      {"{\"model\":{\"vocab\":[]}}", ML_CORRUPT, "vocab"},
      {"{\"model\":{\"vocab\":{\"a\":\"b\"},\"merges\":[]}}", ML_CORRUPT, "vocab: a: expected an integer"},
      {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", ML_CORRUPT, "id 0 has two pieces"},
      {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", ML_CORRUPT, "id -1"},
      {"{\"model\":{\"vocab\":{\"a\":99999999999},\"merges\":[]}}", ML_CORRUPT, "id 99999999999"},
      {"{\"model\":{\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\",\"a b\"]}}", ML_CORRUPT,
       "merges: 1: \"b\" is not"},
      {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", ML_CORRUPT, "merges: 0: \"aa\" is not"},
      {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", ML_CORRUPT, "merges: 0: expected two"},
      {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]}}", ML_CORRUPT, "merges: 0: expected two"},
      {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}", ML_CORRUPT, "unk_token: u"},
      {"{\"added_tokens\":[3],\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}", ML_CORRUPT, "added_tokens: 0"},
      {"{\"added_tokens\":[{\"content\":\"x\",\"special\":1}],\"model\":{\"vocab\":{},\"merges\":[]}}", ML_CORRUPT,
       "special: expected true"},
      {"{\"post_processor\":" TEMPLATE ",\"model\":{\"vocab\":{},\"merges\":[]}}", ML_CORRUPT, "id 260"},
      {"{\"pre_tokenizer\":7,\"model\":{\"vocab\":{},\"merges\":[]}}", ML_CORRUPT, "pre_tokenizer: expected an object"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ml_tokenizer *t;
    CHECK_FAILS(from_text(cases[i].json, strlen(cases[i].json), NULL, &t), cases[i].status, cases[i].message,
                "refused: %s", cases[i].message);
    CHECK(!t, "nothing is left of it");
  }
}

/* --- GGUF --- */

static void put(ml_text *t, const void *bytes, size_t size) { ml_text_append(t, bytes, size); }
static void put_u32(ml_text *t, uint32_t n) { put(t, &n, 4); }
static void put_string(ml_text *t, const char *text) {
  put(t, &(uint64_t){strlen(text)}, 8);
  put(t, text, strlen(text));
}
static void put_key(ml_text *t, const char *key, uint32_t type) {
  put_string(t, key);
  put_u32(t, type);
}
static void put_array(ml_text *t, const char *key, uint32_t type, uint64_t n) {
  put_key(t, key, ML_GGUF_ARRAY);
  put_u32(t, type);
  put(t, &n, 8);
}
static void put_header(ml_text *t, uint64_t pairs) {
  put(t, "GGUF\3\0\0\0", 8);
  put(t, &(uint64_t){0}, 8);
  put(t, &pairs, 8);
}

static ml_status from_bytes(const ml_text *bytes, ml_tokenizer **out) {
  ml_file *file;
  ml_gguf *gguf;
  *out = NULL;
  ML_TRY(ml_file_from_memory("m.gguf", bytes->bytes, bytes->size, &file));
  ML_TRY(ml_gguf_parse(file, &gguf));
  ml_status status = ml_tokenizer_from_gguf(gguf, out);
  ml_gguf_close(gguf);
  return status;
}

/* Pieces, types and scores of a small `llama` vocabulary: 260 ids, of which 4 to 259 are the bytes. */
static void write_llama(ml_text *t, bool prefix) {
  static const struct {
    const char *piece;
    uint32_t type;
    float score;
  } pieces[] = {{"<unk>", 2, 0},    {"<s>", 3, 0},          {"</s>", 3, 0}, {"[u]", 4, 0},
                {UNDERLINE, 1, -9}, {"a", 1, -8},           {"b", 1, -7},   {"ab", 1, -2},
                {"ba", 1, -1},      {UNDERLINE "a", 1, -3}, {"aba", 1, -4}, {"  ", 4, 0}};
  enum { N = sizeof pieces / sizeof *pieces };
  put_header(t, prefix ? 5 : 6);
  put_key(t, "tokenizer.ggml.model", ML_GGUF_STRING), put_string(t, "llama");
  put_array(t, "tokenizer.ggml.tokens", ML_GGUF_STRING, N + 256);
  for (int i = 0; i < N + 256; i++) {
    char byte[8];
    snprintf(byte, sizeof byte, "<0x%02X>", i - N);
    put_string(t, i < N ? pieces[i].piece : byte);
  }
  put_array(t, "tokenizer.ggml.token_type", ML_GGUF_INT32, N + 256);
  for (int i = 0; i < N + 256; i++) put_u32(t, i < N ? pieces[i].type : 6);
  put_array(t, "tokenizer.ggml.scores", ML_GGUF_FLOAT32, N + 256);
  for (int i = 0; i < N + 256; i++) put(t, &(float){i < N ? pieces[i].score : 0}, 4);
  put_key(t, "tokenizer.ggml.eot_token_id", ML_GGUF_UINT32), put_u32(t, 3);
  if (!prefix) put_key(t, "tokenizer.ggml.add_space_prefix", ML_GGUF_BOOL), put(t, "", 1);
}

static void test_gguf_llama(void) {
  ml_text bytes = {0};
  ml_tokenizer *t;
  size_t n;
  write_llama(&bytes, false);
  if (!CHECK_OK(from_bytes(&bytes, &t), "a tokenizer of model llama")) return;
  check_encode(t, "bab", plain, IDS(8, 6), "merges by score, best first");
  check_encode(t, "abab a", plain, IDS(10, 6, 9), "and again with what they made");
  check_encode(t, "b<s>[u]", plain, IDS(6, 1, 3), "control and user-defined pieces");
  check_encode(t, "[u]<s>", as_text, IDS(3, 12 + '<', 12 + 's', 12 + '>'), "control pieces as text");
  check_encode(t, "a  b", plain, IDS(5, 11, 6), "runs of spaces");
  check_encode(t, "a" UNDERLINE UNDERLINE "b", plain, IDS(5, 11, 6), "spelled with underlines too");
  check_encode(t, "\xc3\xa9", whole, IDS(1, 12 + 0xc3, 12 + 0xa9), "byte fallback, and BOS, which is the default");
  check_encode(t, "<0x41>", plain, IDS(12 + '<', 12 + '0', 12 + 'x', 12 + '4', 12 + '1', 12 + '>'),
               "a byte piece's name is text");
  check_decode(t, IDS(1, 9, 11, 12 + 0xc3, 12 + 0xa9), true, " a  \xc3\xa9", "decoding");
  CHECK(ml_tokenizer_bos(t) == 1 && ml_tokenizer_eos(t, &n)[0] == 2 && n == 2 && ml_tokenizer_eos(t, &n)[1] == 3,
        "BOS, EOS and EOT");
  ml_tokenizer_close(t);
  bytes.size = 0;
  write_llama(&bytes, true);
  if (!CHECK_OK(from_bytes(&bytes, &t), "the same with a space in front")) return;
  check_encode(t, "a", plain, IDS(9), "of the text");
  check_encode(t, "b<s>a", plain, IDS(4, 6, 1, 9), "and of what follows a special token");
  check_decode(t, IDS(9, 9), true, "a a", "which decoding takes away");
  ml_tokenizer_close(t);
  ml_text_free(&bytes);
}

static void write_gpt2(ml_text *t, const char *pre, const char *merge) {
  put_header(t, 6);
  put_key(t, "tokenizer.ggml.model", ML_GGUF_STRING), put_string(t, "gpt2");
  put_key(t, "tokenizer.ggml.pre", ML_GGUF_STRING), put_string(t, pre);
  put_array(t, "tokenizer.ggml.tokens", ML_GGUF_STRING, 259);
  for (int i = 0; i < 256; i++) {
    char piece[8] = "";
    piece[ml_utf8_write(ml_byte_char((unsigned char)i), piece)] = '\0';
    put_string(t, piece);
  }
  put_string(t, "12"), put_string(t, "ab"), put_string(t, "<s>");
  put_array(t, "tokenizer.ggml.token_type", ML_GGUF_INT32, 259);
  for (int i = 0; i < 259; i++) put_u32(t, i < 258 ? 1 : 3);
  put_array(t, "tokenizer.ggml.merges", ML_GGUF_STRING, 2), put_string(t, "1 2"), put_string(t, merge);
  put_key(t, "tokenizer.ggml.bos_token_id", ML_GGUF_UINT32), put_u32(t, 258);
}

static void test_gguf_gpt2(void) {
  static const struct {
    const char *pre;
    int32_t ids[5];
    size_t n;
  } cases[] = {{"smollm", {'1', '2', 257}, 3},
               {"gpt-2", {256, 257}, 2},
               {"llama-bpe", {258, 256, 257}, 3},
               {"default", {256, 257}, 2},
               {"qwen2", {'1', '2', 257}, 3}};
  ml_text bytes = {0};
  ml_tokenizer *t;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    bytes.size = 0;
    write_gpt2(&bytes, cases[i].pre, "a b");
    if (!CHECK_OK(from_bytes(&bytes, &t), "a tokenizer of model gpt2, pre %s", cases[i].pre)) continue;
    check_encode(t, "12ab", whole, cases[i].ids, cases[i].n, "digits and BOS as that name says");
    ml_tokenizer_close(t);
  }
  bytes.size = 0;
  write_gpt2(&bytes, "elvish", "a b");
  CHECK_FAILS(from_bytes(&bytes, &t), ML_UNSUPPORTED, "m.gguf: tokenizer.ggml.pre: elvish", "an unknown pre");
  bytes.size = 0;
  write_gpt2(&bytes, "gpt-2", "a c");
  CHECK_FAILS(from_bytes(&bytes, &t), ML_CORRUPT, "\"ac\" is not a piece", "a merge into nothing");
  bytes.size = 0;
  write_gpt2(&bytes, "gpt-2", "ab");
  CHECK_FAILS(from_bytes(&bytes, &t), ML_CORRUPT, "expected two pieces", "half a merge");
  bytes.size = 0;
  put_header(&bytes, 0);
  CHECK_FAILS(from_bytes(&bytes, &t), ML_NOT_FOUND, "no tokenizer", "a file without a tokenizer");
  ml_text_free(&bytes);
}

/* --- memory --- */

/* Everything, from loading to closing. */
static ml_status life(void *argument) {
  ml_tokenizer *t = NULL;
  ml_stream *s = NULL;
  ml_ids ids = {0};
  ml_text text = {0};
  static char words[6000];
  if (!words[0]) memset(words, 'a', sizeof words - 1);
  ml_status status = make(argument, byte_config, &t);
  if (status == ML_OK) status = ml_tokenizer_encode(t, words, sizeof words - 1, whole, &ids);
  if (status == ML_OK) status = ml_tokenizer_encode(t, "ab e\xcc\x81 <s>\xff [x]", 14, whole, &ids);
  if (status == ML_OK) status = ml_tokenizer_decode(t, ids.items, ids.count, false, &text);
  if (status == ML_OK) status = ml_stream_open(t, true, &s);
  for (size_t i = ids.count - (ids.count > 9 ? 9 : 0); status == ML_OK && i < ids.count; i++)
    status = ml_stream_push(s, ids.items[i], &text);
  if (status == ML_OK) status = ml_stream_finish(s, &text);
  ml_stream_close(s);
  ml_text_free(&text);
  ml_ids_free(&ids);
  ml_tokenizer_close(t);
  return status;
}

/* Small, so that it is refused everywhere in a short time; what json-c allocates is not ours to refuse. */
static ml_status gguf_life(void *argument) {
  ml_tokenizer *t = NULL;
  ml_ids ids = {0};
  ml_status status = from_bytes(argument, &t);
  if (status == ML_OK) status = ml_tokenizer_encode(t, "ab  ba <s>", 10, whole, &ids);
  ml_ids_free(&ids);
  ml_tokenizer_close(t);
  return status;
}

/* The same with documents that are there already. */
static ml_status json_life(void *argument) {
  ml_tokenizer *t = NULL;
  ml_stream *s = NULL;
  ml_ids ids = {0};
  ml_text text = {0};
  ml_status status = ml_tokenizer_from_json(argument, &t);
  if (status == ML_OK) status = ml_tokenizer_encode(t, "ab e\xcc\x81 <s>\xff [x]", 14, whole, &ids);
  if (status == ML_OK) status = ml_tokenizer_decode(t, ids.items, ids.count, false, &text);
  if (status == ML_OK) status = ml_stream_open(t, true, &s);
  for (size_t i = 0; status == ML_OK && i < ids.count; i++) status = ml_stream_push(s, ids.items[i], &text);
  if (status == ML_OK) status = ml_stream_finish(s, &text);
  ml_stream_close(s);
  ml_text_free(&text);
  ml_ids_free(&ids);
  ml_tokenizer_close(t);
  return status;
}

/* What lies beside a tokenizer.json: tokens by id, and the older files. */
static const char listing[] = "{\"added_tokens_decoder\":{\"300\":{\"content\":\"[x]\",\"lstrip\":true}},"
                              "\"eos_token\":\"[e]\",\"extra_special_tokens\":[\"[y]\"]}",
                  older[] = "{\"eos_token\":\"[e]\",\"additional_special_tokens\":[\"[y]\"]}",
                  numbers[] = "{\"[x]\":300,\"[y]\":301}";

static ml_json_doc *parse(const char *text, size_t size, const char *name) {
  ml_json_doc *doc = NULL;
  CHECK_OK(ml_json_parse(text, size, name, &doc), "%s", name);
  return doc;
}

static void check_json_refusals(const recipe *r, const char *name) {
  ml_text text = {0};
  write_json(r, &text);
  ml_json_doc *doc = parse(text.bytes, text.size, "tokenizer.json"),
              *config = parse(listing, strlen(listing), "tokenizer_config.json"),
              *map = parse(older, strlen(older), "special_tokens_map.json"),
              *added = parse(numbers, strlen(numbers), "added_tokens.json");
  const ml_tokenizer_docs docs[] = {
      {.tokenizer = doc},
      {.tokenizer = doc, .config = config},
      {.tokenizer = doc, .special_tokens_map = map, .added_tokens = added},
  };
  for (size_t i = 0; i < sizeof docs / sizeof *docs; i++) {
    ml_tokenizer_docs copy = docs[i];
    check_refusals(json_life, &copy, name);
  }
  ml_json_close(doc);
  ml_json_close(config);
  ml_json_close(map);
  ml_json_close(added);
  ml_text_free(&text);
}

static void life_body(void *argument) { life(argument); }

int main(void) {
  test_byte_level();
  test_characters();
  test_runs();
  test_unsupported();
  test_corrupt();
  test_gguf_llama();
  test_gguf_gpt2();
  check_no_leak(life_body, (void *)(uintptr_t)&byte_recipe, "a tokenizer's life");
  check_no_leak(life_body, (void *)(uintptr_t)&char_recipe, "another's");
  check_json_refusals(&byte_recipe, "byte level");
  check_json_refusals(&char_recipe, "characters");
  ml_text bytes = {0};
  write_llama(&bytes, true);
  check_refusals(gguf_life, &bytes, "model llama");
  bytes.size = 0;
  write_gpt2(&bytes, "default", "a b");
  check_refusals(gguf_life, &bytes, "model gpt2");
  ml_text_free(&bytes);
  return check_done();
}
