/* tokenizer_tokens.c: added tokens of all files of a tokenizer, brought together as transformers' AutoTokenizer does.
 *
 * tokenizer.json comes first, in its order. Then what lies beside it: added_tokens_decoder of tokenizer_config.json or,
 * where there is none, the older special_tokens_map.json and added_tokens.json; by the ids that these say, though the
 * ids that tokens get are the vocabulary's own, else the next free ones. Last the special tokens that have a name
 * (bos_token and the like) and those that have none, as far as they are not added yet. */
#include "text/json_fields.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- the list --- */

typedef struct listed { /* borrows its text from a document */
  ml_added_token token;
  const char *text;
  size_t size;
  bool normalized;
  bool numbered; /* a file gave it an id, or all of tokenizer.json's count as if one had: its name makes it special */
  bool named;    /* it came with its name or in a list: the last of several that are one token counts */
} listed;

struct ml_token_list {
  ml_tokenizer *t;
  listed *items;
  size_t count, capacity;
  uint32_t *places; /* of an id: its item's number from 1; 0: none */
  size_t n_places, places_capacity;
  size_t n_model; /* pieces of the model */
  int64_t largest;
};

ml_status ml_token_list_new(ml_tokenizer *t, ml_token_list **out) {
  ml_token_list *l = *out = ml_calloc(1, sizeof *l);
  if (!l) return ML_MEMORY;
  l->t = t;
  l->largest = -1;
  for (size_t i = 0; i < t->vocab.count; i++) l->n_model += t->vocab.flags[i] & ML_PIECE_EXISTS;
  return ML_OK;
}

void ml_token_list_free(ml_token_list *l) {
  if (!l) return;
  ml_free(l->items);
  ml_free(l->places);
  ml_free(l);
}

static listed *find(const ml_token_list *l, const char *text, size_t size) {
  int32_t id = ml_vocab_find(&l->t->vocab, text, size);
  return id >= 0 && (size_t)id < l->n_places && l->places[id] ? &l->items[l->places[id] - 1] : NULL;
}

/* The id that the reference gives: the vocabulary's, else the next free one. What files say is not asked. */
static int32_t id_of(const ml_token_list *l, const char *text, size_t size) {
  int32_t id = ml_vocab_find(&l->t->vocab, text, size);
  if (id >= 0) return id;
  return l->largest >= (int64_t)l->n_model ? (int32_t)(l->largest + 1) : (int32_t)l->n_model;
}

static ml_status append(ml_token_list *l, listed item) {
  size_t id = (size_t)item.token.id;
  ML_TRY(ML_GROW(l->items, l->capacity, l->count + 1));
  ML_TRY(ML_GROW(l->places, l->places_capacity, id + 1));
  for (; l->n_places <= id; l->n_places++) l->places[l->n_places] = 0;
  l->items[l->count++] = item;
  l->places[id] = (uint32_t)l->count;
  return ML_OK;
}

/* A token that comes twice counts once, with the last one's flags, but is special if one was. */
static ml_status list(ml_token_list *l, listed item) {
  ml_vocab *v = &l->t->vocab;
  if (item.size == 0) return ML_OK;
  item.token.id = id_of(l, item.text, item.size);
  if (!ml_vocab_has(v, item.token.id)) ML_TRY(ml_vocab_set(v, item.token.id, item.text, item.size, 0));
  if (item.token.id > l->largest) l->largest = item.token.id;
  v->flags[item.token.id] |= (uint8_t)(ML_PIECE_ADDED | (item.token.special ? ML_PIECE_SPECIAL : 0));
  listed *old = find(l, item.text, item.size);
  if (!old) return append(l, item);
  item.token.special = item.token.special || old->token.special;
  *old = item;
  return ML_OK;
}

ml_status ml_token_list_finish(ml_token_list *l) {
  for (size_t i = 0; i < l->count; i++) {
    const listed *item = &l->items[i];
    ML_TRY(ml_tokenizer_add_token(l->t, item->normalized, item->text, item->size, item->token));
  }
  return ML_OK;
}

/* --- tokens in files --- */

/* An object with content and flags. */
static ml_status read_object(const ml_json *json, const char *where, bool special, listed *out) {
  *out = (listed){0};
  if (ml_json_type(json) != ML_JSON_OBJECT) {
    return ml_fail(ML_CORRUPT, "%s: expected an object, found %s", where, ml_json_type_name(ml_json_type(json)));
  }
  ML_TRY(ml_field_string(json, where, "content", &out->text, &out->size));
  ML_TRY(ml_field_bool(json, where, "single_word", false, &out->token.single_word));
  ML_TRY(ml_field_bool(json, where, "lstrip", false, &out->token.lstrip));
  ML_TRY(ml_field_bool(json, where, "rstrip", false, &out->token.rstrip));
  ML_TRY(ml_field_bool(json, where, "special", special, &out->token.special));
  return ml_field_bool(json, where, "normalized", !out->token.special, &out->normalized);
}

/* A special token by name or in a list: its text alone, or an object; null gives an empty one. */
static ml_status read_special(const ml_json *json, const char *where, bool special, listed *out) {
  *out = (listed){.token.special = true};
  if (ml_json_type(json) == ML_JSON_NULL) return ML_OK;
  if (ml_json_type(json) == ML_JSON_OBJECT) return read_object(json, where, special, out);
  if (ml_json_type(json) != ML_JSON_STRING) {
    return ml_fail(ML_CORRUPT, "%s: expected a string, found %s", where, ml_json_type_name(ml_json_type(json)));
  }
  out->text = ml_json_string(json, &out->size);
  return ML_OK;
}

ml_status ml_token_list_read(ml_token_list *l, const ml_json *root) {
  const ml_json *tokens;
  if (!ml_json_get(root, "added_tokens")) return ML_OK;
  ML_TRY(ml_field_array(root, "tokenizer", "added_tokens", &tokens));
  for (size_t i = 0; i < ml_json_length(tokens); i++) {
    listed item;
    if (ml_json_type(ml_json_at(tokens, i)) != ML_JSON_OBJECT) {
      return ml_fail(ML_CORRUPT, "added_tokens: %zu: expected an object", i);
    }
    ML_TRY(read_object(ml_json_at(tokens, i), "added_tokens", false, &item));
    ML_TRY(list(l, item));
  }
  return ML_OK;
}

/* --- tokens with the ids that files say --- */

typedef struct numbered {
  int64_t id;
  size_t order;
  listed item;
} numbered;

typedef struct numbered_list {
  numbered *items;
  size_t count, capacity;
} numbered_list;

static ml_status number(numbered_list *n, int64_t id, listed item) {
  ML_TRY(ML_GROW(n->items, n->capacity, n->count + 1));
  n->items[n->count] = (numbered){id, n->count, item};
  n->count++;
  return ML_OK;
}

static int by_id(const void *a, const void *b) {
  const numbered *x = a, *y = b;
  if (x->id != y->id) return x->id < y->id ? -1 : 1;
  return (x->order > y->order) - (x->order < y->order);
}

/* {"32000": {"content": "<x>", ...}} */
static ml_status read_decoder(const ml_json *decoder, numbered_list *n) {
  static const char where[] = "added_tokens_decoder";
  ml_json_iter it = {0};
  if (ml_json_type(decoder) != ML_JSON_OBJECT) {
    return ml_fail(ML_CORRUPT, "%s: expected an object, found %s", where, ml_json_type_name(ml_json_type(decoder)));
  }
  while (ml_json_next(decoder, &it)) {
    listed item;
    char *end;
    errno = 0;
    long long id = strtoll(it.key, &end, 10);
    if (*end || end == it.key || errno) return ml_fail(ML_CORRUPT, "%s: %.100s: expected an id", where, it.key);
    ML_TRY(read_object(it.value, where, false, &item));
    ML_TRY(number(n, id, item));
  }
  return ML_OK;
}

static bool is_in_list(const ml_json *array, const char *text, size_t size) {
  for (size_t i = 0; i < ml_json_length(array); i++) {
    listed item;
    if (read_special(ml_json_at(array, i), "", true, &item) == ML_OK && item.size == size &&
        memcmp(item.text, text, size) == 0) {
      return true;
    }
  }
  return false;
}

/* Where a value stands, for messages. */
typedef struct place {
  const ml_json *value;
  bool of_map;
} place;

/* The value of a key, by special_tokens_map.json where that counts and has it, be it null. */
static place standing(const ml_token_files *f, const char *key) {
  if (f->older && ml_json_has(f->map, key)) return (place){ml_json_get(f->map, key), true};
  return (place){ml_json_get(f->config, key), false};
}

/* The token of a name: what extra_special_tokens says as an object replaces what stands outside of it. */
static place named(const ml_token_files *f, const char *key) {
  const ml_json *value = ml_json_get(f->map_names, key);
  if (value) return (place){value, true};
  value = ml_json_get(f->names, key);
  return value ? (place){value, false} : standing(f, key);
}

static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
enum { N_NAMES = sizeof names / sizeof *names };

static bool is_special(const ml_token_files *f, const char *text, size_t size) {
  for (size_t i = 0; i < N_NAMES; i++) {
    listed item;
    if (read_special(standing(f, names[i]).value, names[i], true, &item) == ML_OK && item.size == size &&
        memcmp(item.text, text, size) == 0) {
      return true;
    }
  }
  return is_in_list(f->extra, text, size) || is_in_list(f->more, text, size);
}

/* added_tokens.json: {"<x>": 32000}. */
static ml_status read_encoder(const ml_token_files *f, numbered_list *n) {
  ml_json_iter it = {0};
  while (ml_json_next(f->added, &it)) {
    if (ml_json_type(it.value) != ML_JSON_INT) {
      return ml_fail(ML_CORRUPT, "%.100s: expected an id, found %s", it.key, ml_json_type_name(ml_json_type(it.value)));
    }
    listed item = {.text = it.key, .size = strlen(it.key)};
    item.token.special = is_special(f, item.text, item.size);
    item.normalized = !item.token.special;
    ML_TRY(number(n, ml_json_int(it.value), item));
  }
  return ML_OK;
}

/* tokenizer.json's own tokens, which are in the list already, take the places that the older files gave to others. */
static ml_status read_places(const ml_json *root, numbered_list *n) {
  const ml_json *tokens = ml_json_get(root, "added_tokens");
  for (size_t i = 0; i < ml_json_length(tokens); i++) {
    const ml_json *token = ml_json_at(tokens, i), *id = ml_json_get(token, "id");
    listed item;
    if (ml_json_type(id) != ML_JSON_INT) continue;
    ML_TRY(read_object(token, "added_tokens", false, &item));
    ML_TRY(number(n, ml_json_int(id), item));
  }
  return ML_OK;
}

static bool same_flags(const listed *a, const listed *b) {
  return a->token.single_word == b->token.single_word && a->token.lstrip == b->token.lstrip &&
         a->token.rstrip == b->token.rstrip && a->token.special == b->token.special && a->normalized == b->normalized;
}

/* In the order of their ids; of several with one id the last. Those that the list has as they are stay as they are. */
static ml_status list_numbered(ml_token_list *l, numbered_list *n) {
  if (n->count > 0) qsort(n->items, n->count, sizeof *n->items, by_id);
  for (size_t i = 0; i < n->count; i++) {
    listed *item = &n->items[i].item;
    if (i + 1 < n->count && n->items[i + 1].id == n->items[i].id) continue;
    listed *old = find(l, item->text, item->size);
    item->numbered = true;
    if (old && same_flags(old, item)) old->numbered = true;
    else ML_TRY(list(l, *item));
  }
  return ML_OK;
}

/* --- special tokens --- */

/* A token that has a name is special, also where the file that gave its flags forgot to say so. */
static ml_status list_named(ml_token_list *l, const ml_json *json, const char *name, bool special) {
  listed item;
  ML_TRY(read_special(json, name, special, &item));
  item.token.special = item.named = true;
  listed *old = find(l, item.text, item.size);
  if (!old || old->named) return list(l, item);
  if (!old->numbered || old->token.special) return ML_OK;
  item = *old;
  item.token.special = true;
  return list(l, item);
}

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

/* image_token and the like, which a model has of its own. */
static bool is_own_name(const char *key, const ml_json *value) {
  ml_json_kind kind = ml_json_type(value);
  for (size_t i = 0; i < N_NAMES; i++) {
    if (strcmp(key, names[i]) == 0) return false;
  }
  return ends_with(key, "_token") &&
         (kind == ML_JSON_STRING || (kind == ML_JSON_OBJECT && ml_json_has(value, "content")));
}

static ml_status list_place(ml_token_list *l, const ml_token_files *f, place p, const char *name) {
  const char *source = p.of_map ? f->map_source : f->config_source;
  return ml_fail_prefix(list_named(l, p.value, name, p.of_map), "%s", source);
}

/* Own names in a file. The configuration's count as texts, and as objects that say their type; a text there replaces
 * what special_tokens_map.json says, other than of the names that all models have. */
static ml_status list_own_names(ml_token_list *l, const ml_token_files *f, const ml_json *file) {
  ml_json_iter it = {0};
  while (ml_json_next(file, &it)) {
    if (!is_own_name(it.key, it.value)) continue;
    place p = named(f, it.key);
    const ml_json *value = ml_json_get(f->config, it.key);
    bool is_text = ml_json_type(value) == ML_JSON_STRING, of_map = p.value == ml_json_get(f->map, it.key);
    if (of_map && is_text && is_own_name(it.key, value)) p = (place){value, false};
    else if (file == f->config && !is_text && (of_map || !ml_json_has(it.value, "__type"))) continue;
    ML_TRY(list_place(l, f, p, it.key));
  }
  return ML_OK;
}

/* Names in an object, whose values are tokens one and all. */
static ml_status list_names(ml_token_list *l, const ml_token_files *f, const ml_json *object) {
  ml_json_iter it = {0};
  while (ml_json_next(object, &it)) ML_TRY(list_place(l, f, named(f, it.key), it.key));
  return ML_OK;
}

/* A list of tokens without names. */
static ml_status list_extra(ml_token_list *l, const ml_json *extra, bool special) {
  static const char where[] = "extra_special_tokens";
  if (ml_json_type(extra) != ML_JSON_ARRAY && ml_json_type(extra) != ML_JSON_NULL) {
    return ml_fail(ML_CORRUPT, "%s: expected an array, found %s", where, ml_json_type_name(ml_json_type(extra)));
  }
  for (size_t i = 0; i < ml_json_length(extra); i++) {
    listed item;
    ML_TRY(read_special(ml_json_at(extra, i), where, special, &item));
    const listed *old = find(l, item.text, item.size);
    item.named = true;
    if (!old || old->named) ML_TRY(list(l, item));
  }
  return ML_OK;
}

static bool is_empty(const ml_json *value) {
  ml_json_kind kind = ml_json_type(value);
  return kind == ML_JSON_NULL || ((kind == ML_JSON_ARRAY || kind == ML_JSON_OBJECT) && ml_json_length(value) == 0);
}

/* Which lists of tokens without names count. additional_special_tokens is the old name of extra_special_tokens, and
 * stands for it where the configuration has none; where the new name is taken by an object, which gives names, or by
 * nothing, the old one counts as well, of special_tokens_map.json before the configuration, but comes too late to say
 * which tokens of added_tokens.json are special. */
static void choose_extra(ml_token_files *f) {
  static const char new_key[] = "extra_special_tokens", old_key[] = "additional_special_tokens";
  const ml_json *old = ml_json_get(f->config, old_key);
  bool taken = ml_json_has(f->config, new_key);
  f->extra = ml_json_get(f->config, new_key);
  if (ml_json_has(f->config, old_key) && is_empty(f->extra)) {
    f->extra = old;
    old = NULL;
    taken = true;
  }
  if (ml_json_type(f->extra) == ML_JSON_OBJECT) {
    f->names = f->extra;
    f->extra = NULL;
    taken = false;
  }
  if (f->older && ml_json_has(f->map, new_key)) {
    f->more = ml_json_get(f->map, new_key);
    if (ml_json_type(f->more) != ML_JSON_ARRAY) f->extra = NULL; /* what is no list replaces one */
    taken = ml_json_type(f->more) != ML_JSON_OBJECT;
    if (!taken) f->map_names = f->more;
    if (!taken) f->more = NULL;
  }
  if (taken) return;
  f->late_of_map = f->older && ml_json_has(f->map, old_key);
  f->late = f->late_of_map ? ml_json_get(f->map, old_key) : old;
}

static ml_status list_specials(ml_token_list *l, const ml_token_files *f) {
  for (size_t i = 0; i < N_NAMES; i++) ML_TRY(list_place(l, f, named(f, names[i]), names[i]));
  if (f->older) ML_TRY(list_own_names(l, f, f->map));
  ML_TRY(list_own_names(l, f, f->config));
  ML_TRY(list_names(l, f, f->names));
  ML_TRY(list_names(l, f, f->map_names));
  ML_TRY(ml_fail_prefix(list_extra(l, f->extra, false), "%s", f->config_source));
  ML_TRY(ml_fail_prefix(list_extra(l, f->more, true), "%s", f->map_source));
  return ml_fail_prefix(list_extra(l, f->late, f->late_of_map), "%s",
                        f->late_of_map ? f->map_source : f->config_source);
}

/* The id of bos_token or eos_token; -1 where the files name none. */
static ml_status special_id(const ml_token_list *l, const ml_token_files *f, const char *name, int32_t *id) {
  listed item;
  place p = named(f, name);
  ML_TRY(read_special(p.value, name, p.of_map, &item));
  *id = item.size > 0 ? ml_vocab_find(&l->t->vocab, item.text, item.size) : -1;
  return ML_OK;
}

ml_status ml_token_list_read_beside(ml_token_list *l, ml_token_files *f) {
  numbered_list n = {0};
  const ml_json *decoder = ml_json_get(f->config, "added_tokens_decoder");
  f->older = decoder == NULL;
  choose_extra(f);
  ml_status status = ML_OK;
  if (decoder) {
    status = ml_fail_prefix(read_decoder(decoder, &n), "%s", f->config_source);
  } else {
    status = ml_fail_prefix(read_encoder(f, &n), "%s", f->added_source);
    if (status == ML_OK) status = read_places(f->tokenizer, &n);
  }
  if (status == ML_OK) status = list_numbered(l, &n);
  ml_free(n.items);
  ML_TRY(status);
  ML_TRY(list_specials(l, f));
  int32_t eos;
  ML_TRY(special_id(l, f, "bos_token", &l->t->bos));
  ML_TRY(special_id(l, f, "eos_token", &eos));
  return ml_tokenizer_add_eos(l->t, eos);
}
