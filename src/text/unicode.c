/* unicode.c: look-up in the generated tables. */
#include "text/unicode.h"

#include <string.h>

#include "text/unicode_data.inc"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Index of the last entry whose value is at most `key`; the first entry must be. */
static size_t last_at_most(const uint32_t *items, size_t count, uint32_t key) {
  size_t low = 0;
  while (count > 1) {
    size_t half = count / 2;
    if (items[low + half] <= key) low += half;
    count -= half;
  }
  return low;
}

/* Whether `code` lies inside the ranges that the edges delimit. */
static bool inside(const uint32_t *edges, size_t count, uint32_t code) {
  return count > 0 && code >= edges[0] && last_at_most(edges, count, code) % 2 == 0;
}

bool ml_unicode_is_space(uint32_t code) {
  if (code < 0x80) return code == ' ' || (code >= '\t' && code <= '\r');
  return inside(white_space, COUNT(white_space), code);
}

bool ml_unicode_is_word(uint32_t code) {
  return inside(regex_word, COUNT(regex_word), code) != inside(word_difference, COUNT(word_difference), code);
}

bool ml_unicode_is_accent(uint32_t code) { return inside(accent, COUNT(accent), code); }

unsigned ml_unicode_class(uint32_t code) {
  if (code < 0x300) return 0;
  return class_runs[last_at_most(class_runs, COUNT(class_runs), code << 8 | 0xff)] & 0xff;
}

bool ml_unicode_nfc_active(uint32_t code) { return code >= 0x300 && inside(nfc_active, COUNT(nfc_active), code); }

uint32_t ml_unicode_lower(uint32_t code) {
  if (code < 0x80) return code >= 'A' && code <= 'Z' ? code + 32 : code;
  size_t low = 0, high = COUNT(lower_runs);
  while (low < high) {
    size_t middle = (low + high) / 2;
    const int32_t *run = lower_runs[middle];
    if ((int32_t)code > run[1]) {
      low = middle + 1;
    } else if ((int32_t)code < run[0]) {
      high = middle;
    } else {
      return ((int32_t)code - run[0]) % run[2] == 0 ? (uint32_t)((int32_t)code + run[3]) : code;
    }
  }
  return code;
}

static const uint32_t *find_decomposition(const uint32_t *points, const uint32_t *places, size_t n, uint32_t code,
                                          size_t *count) {
  size_t i = last_at_most(points, n, code);
  if (points[i] != code) return NULL;
  *count = places[i] & 31;
  return decomposition_pool + (places[i] >> 5);
}

const uint32_t *ml_unicode_decompose(uint32_t code, bool compatible, size_t *count) {
  if (compatible) {
    const uint32_t *found =
        find_decomposition(compatible_points, compatible_places, COUNT(compatible_points), code, count);
    if (found) return found;
  }
  return find_decomposition(canonical_points, canonical_places, COUNT(canonical_points), code, count);
}

uint32_t ml_unicode_compose(uint32_t first, uint32_t second) {
  size_t low = 0, high = COUNT(compositions) / 3;
  while (low < high) {
    size_t middle = (low + high) / 2;
    const uint32_t *row = compositions + 3 * middle;
    if (row[0] < first || (row[0] == first && row[1] < second)) {
      low = middle + 1;
    } else if (row[0] == first && row[1] == second) {
      return row[2];
    } else {
      high = middle;
    }
  }
  return 0;
}

static ml_status add_edges(ml_ranges *ranges, const uint32_t *edges, size_t count) {
  for (size_t i = 0; i < count; i += 2) ML_TRY(ml_ranges_add(ranges, edges[i], edges[i + 1]));
  return ML_OK;
}

/* Whether a category belongs to the property `name`: "Lu", "L", or "LC" for the cased letters. */
static bool category_fits(const char *category, const char *name, size_t size) {
  if (size == 1) return category[0] == name[0];
  if (size != 2) return false;
  if (name[0] == 'L' && name[1] == 'C') return category[0] == 'L' && strchr("ult", category[1]);
  return category[0] == name[0] && category[1] == name[1];
}

static ml_status add_category(ml_ranges *ranges, const char *name, size_t size, bool *found) {
  bool fits[COUNT(category_names)];
  *found = false;
  for (size_t i = 0; i < COUNT(category_names); i++) {
    fits[i] = category_fits(category_names[i], name, size);
    *found |= fits[i];
  }
  for (size_t i = 0; *found && i < COUNT(category_runs); i++) {
    uint32_t end = i + 1 < COUNT(category_runs) ? category_runs[i + 1] >> 5 : ML_CODE_POINTS;
    if (fits[category_runs[i] & 31]) ML_TRY(ml_ranges_add(ranges, category_runs[i] >> 5, end));
  }
  return ML_OK;
}

#define SET(name, table)                                                                                               \
  { name, table, COUNT(table) }
static const struct {
  const char *name;
  const uint32_t *edges;
  size_t count;
} sets[] = {
    SET("space", white_space),        SET("regex_word", regex_word), SET("numeric", numeric),
    SET("punctuation", punctuation),  SET("Han", script_han),        SET("Hiragana", script_hiragana),
    SET("Katakana", script_katakana), SET("Hangul", script_hangul),  SET("Bopomofo", script_bopomofo),
    SET("Latin", script_latin),       SET("Greek", script_greek),    SET("Cyrillic", script_cyrillic),
    SET("Arabic", script_arabic),     SET("Hebrew", script_hebrew),  SET("Devanagari", script_devanagari),
    SET("Thai", script_thai),
};

/* The set of `single_word` and Whitespace differs from the regular expressions' \w in a few code points. */
static ml_status add_word(ml_ranges *ranges) {
  for (size_t i = 0; i < COUNT(regex_word); i += 2) {
    uint32_t first = regex_word[i], end = regex_word[i + 1];
    for (size_t j = 0; j < COUNT(word_difference); j += 2) {
      uint32_t cut = word_difference[j], cut_end = word_difference[j + 1];
      if (cut_end <= first || cut >= end) continue;
      if (cut > first) ML_TRY(ml_ranges_add(ranges, first, cut));
      first = cut_end;
    }
    if (first < end) ML_TRY(ml_ranges_add(ranges, first, end));
  }
  for (size_t j = 0; j < COUNT(word_difference); j += 2) {
    if (!inside(regex_word, COUNT(regex_word), word_difference[j])) {
      ML_TRY(ml_ranges_add(ranges, word_difference[j], word_difference[j + 1]));
    }
  }
  return ML_OK;
}

ml_status ml_unicode_add_property(ml_ranges *ranges, const char *name, size_t size) {
  bool found;
  ML_TRY(add_category(ranges, name, size, &found));
  for (size_t i = 0; !found && i < COUNT(sets); i++) {
    if (strlen(sets[i].name) != size || memcmp(sets[i].name, name, size) != 0) continue;
    found = true;
    ML_TRY(add_edges(ranges, sets[i].edges, sets[i].count));
  }
  if (!found && size == 4 && memcmp(name, "word", 4) == 0) {
    found = true;
    ML_TRY(add_word(ranges));
  }
  if (!found && size == 3 && memcmp(name, "Any", 3) == 0) {
    found = true;
    ML_TRY(ml_ranges_add(ranges, 0, ML_CODE_POINTS));
  }
  if (!found) return ml_fail(ML_UNSUPPORTED, "regular expression: property %.*s is not known", (int)size, name);
  ml_ranges_tidy(ranges);
  return ML_OK;
}
