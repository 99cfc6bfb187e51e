/* normal_form.c: NFC, NFD, NFKC and NFKD.
 * Source: Unicode Standard Annex #15; Hangul: the Unicode Standard, section 3.12. */
#include "text/normalize.h"

#include <string.h>

enum {
  HANGUL = 0xac00,
  LEADS = 0x1100,
  VOWELS = 0x1161,
  TAILS = 0x11a7,
  N_LEADS = 19,
  N_VOWELS = 21,
  N_TAILS = 28,
  N_HANGUL = N_LEADS * N_VOWELS * N_TAILS
};

/* Decomposed characters with their classes: class << 24 | code point, so that a stable sort needs no look-up. */
typedef struct cluster {
  uint32_t *items;
  size_t count, capacity;
} cluster;

enum { CODE_MASK = 0x1fffff };

static ml_status push(cluster *c, uint32_t code) {
  if (c->count == c->capacity) ML_TRY(ML_GROW(c->items, c->capacity, c->count + 1));
  c->items[c->count++] = ml_unicode_class(code) << 24 | code;
  return ML_OK;
}

static ml_status decompose(cluster *c, uint32_t code, bool compatible) {
  if (code < 0xa0) return push(c, code);
  if (code >= HANGUL && code < HANGUL + N_HANGUL) {
    uint32_t index = code - HANGUL, tail = index % N_TAILS;
    ML_TRY(push(c, LEADS + index / (N_VOWELS * N_TAILS)));
    ML_TRY(push(c, VOWELS + index / N_TAILS % N_VOWELS));
    return tail ? push(c, TAILS + tail) : ML_OK;
  }
  size_t count;
  const uint32_t *parts = ml_unicode_decompose(code, compatible, &count);
  if (!parts) return push(c, code);
  for (size_t i = 0; i < count; i++) ML_TRY(push(c, parts[i]));
  return ML_OK;
}

static void merge_halves(const uint32_t *from, uint32_t *to, size_t start, size_t middle, size_t end) {
  for (size_t i = start, j = middle, k = start; k < end; k++) {
    bool left = i < middle && (j == end || from[i] >> 24 <= from[j] >> 24);
    to[k] = left ? from[i++] : from[j++];
  }
}

/* Canonical order: a stable sort by class of each run of marks. Runs are short, save in hostile text. */
static ml_status sort_marks(uint32_t *items, size_t n) {
  if (n <= 32) {
    for (size_t i = 1; i < n; i++) {
      uint32_t item = items[i];
      size_t k = i;
      for (; k > 0 && items[k - 1] >> 24 > item >> 24; k--) items[k] = items[k - 1];
      items[k] = item;
    }
    return ML_OK;
  }
  uint32_t *other = ml_calloc(n, sizeof *other);
  if (!other) return ML_MEMORY;
  uint32_t *from = items, *to = other;
  for (size_t width = 1; width < n; width *= 2) {
    for (size_t start = 0; start < n; start += 2 * width) {
      size_t middle = start + width < n ? start + width : n, end = middle + width < n ? middle + width : n;
      merge_halves(from, to, start, middle, end);
    }
    uint32_t *swap = from;
    from = to;
    to = swap;
  }
  if (from != items) memcpy(items, from, n * sizeof *items);
  ml_free(other);
  return ML_OK;
}

static ml_status reorder(cluster *c) {
  for (size_t i = 0; i < c->count;) {
    size_t end = i;
    while (end < c->count && c->items[end] >> 24) end++;
    if (end - i > 1) ML_TRY(sort_marks(c->items + i, end - i));
    i = end + 1;
  }
  return ML_OK;
}

static uint32_t compose_pair(uint32_t first, uint32_t second) {
  if (first >= LEADS && first < LEADS + N_LEADS && second >= VOWELS && second < VOWELS + N_VOWELS) {
    return HANGUL + ((first - LEADS) * N_VOWELS + (second - VOWELS)) * N_TAILS;
  }
  if (first >= HANGUL && first < HANGUL + N_HANGUL && (first - HANGUL) % N_TAILS == 0 && second > TAILS &&
      second < TAILS + N_TAILS) {
    return first + (second - TAILS);
  }
  return ml_unicode_compose(first, second);
}

/* A mark joins the last starter unless one of its own class, or a starter, stands between. */
static void compose(cluster *c) {
  size_t starter = SIZE_MAX, kept = 0;
  unsigned last = 0; /* class of the item kept last, when that is not the starter */
  bool between = false;
  for (size_t i = 0; i < c->count; i++) {
    unsigned class = c->items[i] >> 24;
    uint32_t code = c->items[i] & CODE_MASK;
    if (starter != SIZE_MAX && (!between || (last < class && last != 0))) {
      uint32_t joined = compose_pair(c->items[starter] & CODE_MASK, code);
      if (joined) {
        c->items[starter] = ml_unicode_class(joined) << 24 | joined;
        continue;
      }
    }
    if (class == 0) {
      starter = kept;
      between = false;
    } else {
      between = true;
      last = class;
    }
    c->items[kept++] = c->items[i];
  }
  c->count = kept;
}

static ml_status finish_cluster(cluster *c, bool composed, ml_text *out) {
  ML_TRY(reorder(c));
  if (composed) compose(c);
  for (size_t i = 0; i < c->count; i++) ML_TRY(ml_text_append_code(out, c->items[i] & CODE_MASK));
  c->count = 0;
  return ML_OK;
}

/* NFC touches only active characters and what stands before them: the rest is copied in stretches. */
static ml_status nfc(const char *text, size_t size, cluster *c, ml_text *out) {
  size_t copied = 0, inert = 0; /* text before `copied` is out; the last inert character begins at `inert` */
  for (size_t i = 0; i < size;) {
    uint32_t code = ml_utf8_decode(text + i);
    size_t length = ml_utf8_length(text[i]);
    if (!ml_unicode_nfc_active(code)) {
      inert = i;
      i += length;
      continue;
    }
    ML_TRY(ml_text_append(out, text + copied, inert - copied));
    for (i = inert; i < size; i += ml_utf8_length(text[i])) {
      code = ml_utf8_decode(text + i);
      if (i > inert && !ml_unicode_nfc_active(code)) break;
      ML_TRY(decompose(c, code, false));
    }
    ML_TRY(finish_cluster(c, true, out));
    copied = inert = i;
  }
  return ml_text_append(out, text + copied, size - copied);
}

ml_status ml_normal_form(ml_normal_kind form, const char *text, size_t size, ml_text *out) {
  cluster c = {0};
  ml_status status = ML_OK;
  if (form == ML_NORMAL_NFC) {
    status = nfc(text, size, &c, out);
  } else {
    bool compatible = form == ML_NORMAL_NFKC || form == ML_NORMAL_NFKD;
    for (size_t i = 0; status == ML_OK && i < size; i += ml_utf8_length(text[i])) {
      status = decompose(&c, ml_utf8_decode(text + i), compatible);
    }
    if (status == ML_OK) status = finish_cluster(&c, form == ML_NORMAL_NFKC, out);
  }
  ml_free(c.items);
  return status;
}

bool ml_is_nfc(const char *text, size_t size) {
  for (size_t i = 0; i < size;) {
    if ((unsigned char)text[i] < 0xcc) { /* below U+0300 nothing is active */
      i++;
      continue;
    }
    if (ml_unicode_nfc_active(ml_utf8_decode(text + i))) return false;
    i += ml_utf8_length(text[i]);
  }
  return true;
}
