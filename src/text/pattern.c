/* pattern.c: sets of characters to atoms, atoms to PCRE2, and matching. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum {
  PAGE = 256, /* code points in a page of the map to atoms */
  PAGES = ML_CODE_POINTS / PAGE,
  MAX_ATOMS = 256,
  MATCH_LIMIT = 10 * 1000 * 1000, /* PCRE2's count of internal steps, against patterns that take for ever */
  JIT_STACK_BYTES = 1 << 20
};

struct ml_pattern {
  bool literal; /* `text` is the pattern; found by memmem in characters, by PCRE2 in bytes */
  ml_text text;
  uint8_t ascii[128];    /* code point to atom */
  uint8_t bytes[256];    /* the same for ML_VIEW_BYTES */
  uint16_t index[PAGES]; /* code point / PAGE to page */
  uint8_t *pages;        /* (n_pages, PAGE) */
  size_t n_pages, pages_capacity;
  pcre2_code *code;
  pcre2_match_data *match;
  pcre2_match_context *context;
  pcre2_jit_stack *stack;
  bool jit;
  char *atoms; /* scratch: the part being searched, an atom a character */
  size_t atoms_capacity;
};

void ml_spans_free(ml_spans *spans) {
  ml_free(spans->items);
  *spans = (ml_spans){0};
}

ml_status ml_spans_add(ml_spans *spans, uint32_t start, uint32_t end, bool match) {
  if (spans->count == spans->capacity) ML_TRY(ML_GROW(spans->items, spans->capacity, spans->count + 1));
  spans->items[spans->count++] = (ml_span){start, end, match};
  return ML_OK;
}

/* --- atoms --- */

/* A set that begins or ends at a code point. */
typedef struct edge {
  uint32_t at;
  uint32_t set;
} edge;

typedef struct atoms { /* which sets an atom is in: one row of bits each */
  uint64_t *rows;
  size_t words, count, capacity;
} atoms;

static int by_place(const void *a, const void *b) {
  const edge *x = a, *y = b;
  if (x->at != y->at) return x->at < y->at ? -1 : 1;
  return (x->set > y->set) - (x->set < y->set);
}

static ml_status collect_edges(const ml_pattern_code *parsed, edge **out, size_t *count) {
  size_t n = 0, k = 0;
  for (size_t s = 0; s < parsed->n_sets; s++) n += parsed->sets[s].count;
  edge *edges = ml_calloc(n, sizeof *edges);
  if (!edges) return ML_MEMORY;
  for (size_t s = 0; s < parsed->n_sets; s++) {
    for (size_t i = 0; i < parsed->sets[s].count; i++) edges[k++] = (edge){parsed->sets[s].items[i], (uint32_t)s};
  }
  qsort(edges, n, sizeof *edges, by_place);
  *out = edges;
  *count = n;
  return ML_OK;
}

/* The atom that is in just the sets of `row`; a new one if there is none yet. */
static ml_status atom_of(atoms *a, const uint64_t *row, unsigned *atom) {
  for (size_t i = 0; i < a->count; i++) {
    if (memcmp(a->rows + i * a->words, row, a->words * sizeof *row) == 0) {
      *atom = (unsigned)i;
      return ML_OK;
    }
  }
  if (a->count == MAX_ATOMS)
    return ml_fail(ML_UNSUPPORTED, "regular expression: more than %d kinds of characters", MAX_ATOMS);
  ML_TRY(ML_GROW(a->rows, a->capacity, (a->count + 1) * a->words));
  memcpy(a->rows + a->count * a->words, row, a->words * sizeof *row);
  *atom = (unsigned)a->count++;
  return ML_OK;
}

static ml_status new_page(ml_pattern *p, size_t *page) {
  ML_TRY(ML_GROW(p->pages, p->pages_capacity, (p->n_pages + 1) * PAGE));
  *page = p->n_pages++;
  return ML_OK;
}

/* Maps [first, end) to an atom; pages come in order. Pages that one stretch covers are shared. */
static ml_status map_stretch(ml_pattern *p, uint32_t first, uint32_t end, uint8_t atom) {
  size_t whole = SIZE_MAX;
  while (first < end) {
    uint32_t stop = (first / PAGE + 1) * PAGE;
    if (stop > end) stop = end;
    size_t page;
    if (first % PAGE == 0 && stop - first == PAGE) {
      if (whole == SIZE_MAX) {
        ML_TRY(new_page(p, &whole));
        memset(p->pages + whole * PAGE, atom, PAGE);
      }
      page = whole;
    } else {
      if (first % PAGE == 0) {
        ML_TRY(new_page(p, &page));
      } else {
        page = p->index[first / PAGE];
      }
      memset(p->pages + page * PAGE + first % PAGE, atom, stop - first);
    }
    p->index[first / PAGE] = (uint16_t)page;
    first = stop;
  }
  return ML_OK;
}

static unsigned atom_at(const ml_pattern *p, uint32_t code) {
  return p->pages[(size_t)p->index[code / PAGE] * PAGE + code % PAGE];
}

/* Sweeps the code points from edge to edge. */
static ml_status sweep(ml_pattern *p, const edge *edges, size_t n, atoms *a, uint64_t *row) {
  uint32_t from = 0;
  for (size_t i = 0; i <= n;) {
    uint32_t to = i < n ? edges[i].at : ML_CODE_POINTS;
    if (to > from) {
      unsigned atom = 0;
      ML_TRY(atom_of(a, row, &atom));
      ML_TRY(map_stretch(p, from, to, (uint8_t)atom));
      from = to;
    }
    if (i == n) break;
    for (; i < n && edges[i].at == to; i++) row[edges[i].set / 64] ^= UINT64_C(1) << edges[i].set % 64;
  }
  return ML_OK;
}

static ml_status make_atoms(ml_pattern *p, const ml_pattern_code *parsed, atoms *a) {
  edge *edges = NULL;
  size_t n = 0;
  a->words = parsed->n_sets / 64 + 1;
  uint64_t *row = ml_calloc(a->words, sizeof *row);
  ml_status status = row ? collect_edges(parsed, &edges, &n) : ML_MEMORY;
  if (status == ML_OK) status = sweep(p, edges, n, a, row);
  ml_free(row);
  ml_free(edges);
  if (status != ML_OK) return status;
  for (unsigned c = 0; c < 128; c++) p->ascii[c] = (uint8_t)atom_at(p, c);
  for (unsigned b = 0; b < 256; b++) p->bytes[b] = (uint8_t)atom_at(p, ml_byte_char((unsigned char)b));
  return ML_OK;
}

/* --- compilation --- */

static ml_status append_byte(ml_text *out, size_t byte) {
  static const char digits[] = "0123456789abcdef";
  char text[4] = {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
  return ml_text_append(out, text, sizeof text);
}

static ml_status append_class(ml_text *out, const atoms *a, size_t set) {
  bool any = false;
  ML_TRY(ml_text_append(out, "[", 1));
  for (size_t i = 0; i < a->count; i++) {
    if (!(a->rows[i * a->words + set / 64] >> set % 64 & 1)) continue;
    ML_TRY(append_byte(out, i));
    any = true;
  }
  return any ? ml_text_append(out, "]", 1) : ml_text_append(out, "^\\x00-\\xff]", 11);
}

/* The PCRE2 source, with classes of atoms for the numbered sets. */
static ml_status write_source(const ml_pattern_code *parsed, const atoms *a, ml_text *out) {
  for (size_t i = 0; i < parsed->code.size; i++) {
    const unsigned char *at = (const unsigned char *)parsed->code.bytes + i;
    if (*at == ML_PATTERN_SET) {
      ML_TRY(append_class(out, a, at[1] | (size_t)at[2] << 8));
      i += 2;
    } else {
      ML_TRY(ml_text_append(out, (const char *)at, 1));
    }
    if (out->size > 1 << 20) return ml_fail(ML_LIMIT, "regular expression: too long");
  }
  return ML_OK;
}

static ml_status compile_source(ml_pattern *p, const ml_text *source) {
  int error;
  PCRE2_SIZE place;
  p->code = pcre2_compile((PCRE2_SPTR)(source->bytes ? source->bytes : ""), source->size,
                          PCRE2_DOTALL | PCRE2_NEVER_UTF, &error, &place, NULL);
  if (!p->code) {
    char text[200];
    if (error == PCRE2_ERROR_NOMEMORY) return ml_fail(ML_MEMORY, "out of memory: compiling a regular expression");
    pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
    return ml_fail(ML_UNSUPPORTED, "regular expression: %s", text);
  }
  p->match = pcre2_match_data_create(1, NULL);
  p->context = pcre2_match_context_create(NULL);
  if (!p->match || !p->context) return ml_fail(ML_MEMORY, "out of memory: compiling a regular expression");
  pcre2_set_match_limit(p->context, MATCH_LIMIT);
  p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0; /* without it the interpreter does the same, slower */
  return ML_OK;
}

static ml_status compile(ml_pattern *p, const char *source, size_t size) {
  ml_pattern_code parsed;
  atoms a = {0};
  ml_text code = {0};
  ML_TRY(ml_pattern_parse(source, size, p->literal, &parsed));
  ml_status status = make_atoms(p, &parsed, &a);
  if (status == ML_OK) status = write_source(&parsed, &a, &code);
  if (status == ML_OK) status = compile_source(p, &code);
  ml_text_free(&code);
  ml_free(a.rows);
  ml_pattern_code_free(&parsed);
  return status;
}

ml_status ml_pattern_compile(const char *source, size_t size, bool literal, ml_pattern **out) {
  *out = NULL;
  ml_pattern *p = ml_calloc(1, sizeof *p);
  if (!p) return ML_MEMORY;
  p->literal = literal;
  ml_status status = ml_text_append(&p->text, source, size);
  if (status == ML_OK) status = compile(p, source, size);
  if (status != ML_OK) {
    ml_pattern_free(p);
    return status;
  }
  *out = p;
  return ML_OK;
}

void ml_pattern_free(ml_pattern *p) {
  if (!p) return;
  pcre2_match_data_free(p->match);
  pcre2_match_context_free(p->context);
  pcre2_jit_stack_free(p->stack);
  pcre2_code_free(p->code);
  ml_text_free(&p->text);
  ml_free(p->pages);
  ml_free(p->atoms);
  ml_free(p);
}

/* --- matching --- */

/* Writes the atoms of a text and returns how many. */
static size_t write_atoms(const ml_pattern *p, ml_view view, const char *text, size_t size, char *to) {
  const char *end = text + size;
  char *start = to;
  if (view == ML_VIEW_BYTES) {
    while (text < end) *to++ = (char)p->bytes[(unsigned char)*text++];
    return size;
  }
  while (text < end) {
    unsigned char c = (unsigned char)*text;
    if (c < 0x80) {
      *to++ = (char)p->ascii[c];
      text++;
    } else {
      uint32_t code = ml_utf8_decode(text);
      *to++ = (char)p->pages[(size_t)p->index[code / PAGE] * PAGE + code % PAGE];
      text += ml_utf8_length(*text);
    }
  }
  return (size_t)(to - start);
}

/* One search from `from`: found, not found, or a failure. */
static ml_status search(ml_pattern *p, size_t n, size_t from, bool *found) {
  PCRE2_SPTR subject = (PCRE2_SPTR)p->atoms;
  int rc = p->jit ? pcre2_jit_match(p->code, subject, n, from, 0, p->match, p->context)
                  : pcre2_match(p->code, subject, n, from, 0, p->match, p->context);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !p->stack) {
    p->stack = pcre2_jit_stack_create(JIT_STACK_BYTES / 32, JIT_STACK_BYTES, NULL);
    if (!p->stack) return ml_fail(ML_MEMORY, "out of memory: matching a regular expression");
    pcre2_jit_stack_assign(p->context, NULL, p->stack);
    return search(p, n, from, found);
  }
  *found = rc >= 0;
  if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH) return ML_OK;
  char text[200] = "";
  pcre2_get_error_message(rc, (PCRE2_UCHAR *)text, sizeof text);
  return ml_fail(ML_LIMIT, "regular expression: matching failed: %s", text);
}

/* Bytes of the next `count` characters. */
static uint32_t advance(ml_view view, const char *text, size_t count) {
  if (view == ML_VIEW_BYTES) return (uint32_t)count;
  const char *s = text;
  while (count-- > 0) s += ml_utf8_length(*s);
  return (uint32_t)(s - text);
}

static ml_status cut_regex(ml_pattern *p, ml_view view, const char *text, uint32_t start, uint32_t end, ml_spans *out) {
  ML_TRY(ML_GROW(p->atoms, p->atoms_capacity, (size_t)(end - start) + 1));
  size_t n = write_atoms(p, view, text + start, end - start, p->atoms);
  const PCRE2_SIZE *match = pcre2_get_ovector_pointer(p->match);
  size_t from = 0, done = 0, last = SIZE_MAX; /* in characters: where to search, what is cut, end of the last match */
  uint32_t place = start;                     /* of `done`, in bytes */
  while (from <= n) {
    bool found = false;
    ML_TRY(search(p, n, from, &found));
    if (!found) break;
    size_t first = match[0], past = match[1];
    if (first == past && past == last) { /* no empty match directly behind a match */
      from++;
      continue;
    }
    if (first > done) {
      uint32_t to = place + advance(view, text + place, first - done);
      ML_TRY(ml_spans_add(out, place, to, false));
      place = to;
    }
    uint32_t to = place + advance(view, text + place, past - first);
    ML_TRY(ml_spans_add(out, place, to, true));
    place = to;
    from = done = last = past;
  }
  return place < end ? ml_spans_add(out, place, end, false) : ML_OK;
}

static ml_status cut_literal(const ml_pattern *p, const char *text, uint32_t start, uint32_t end, ml_spans *out) {
  while (start < end) {
    const char *found = memmem(text + start, end - start, p->text.bytes, p->text.size);
    if (!found) return ml_spans_add(out, start, end, false);
    uint32_t at = (uint32_t)(found - text), past = at + (uint32_t)p->text.size;
    if (at > start) ML_TRY(ml_spans_add(out, start, at, false));
    ML_TRY(ml_spans_add(out, at, past, true));
    start = past;
  }
  return ML_OK;
}

ml_status ml_pattern_cut(ml_pattern *p, ml_view view, const char *text, uint32_t start, uint32_t end, ml_spans *out) {
  if (p->literal && p->text.size > 0 && view == ML_VIEW_CHARS) return cut_literal(p, text, start, end, out);
  return cut_regex(p, view, text, start, end, out);
}
