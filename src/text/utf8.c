/* utf8.c: growing text, and bytes that may not be UTF-8. */
#include "text/unicode.h"

#include <string.h>

void ml_text_free(ml_text *text) {
  ml_free(text->bytes);
  *text = (ml_text){0};
}

void ml_ids_free(ml_ids *ids) {
  ml_free(ids->items);
  *ids = (ml_ids){0};
}

ml_status ml_text_append(ml_text *text, const char *bytes, size_t size) {
  size_t need;
  if (size == 0) return ML_OK;
  if (!ml_add_size(text->size, size, &need) || !ml_add_size(need, 1, &need)) {
    return ml_fail(ML_MEMORY, "out of memory: a text too long");
  }
  ML_TRY(ML_GROW(text->bytes, text->capacity, need));
  memcpy(text->bytes + text->size, bytes, size);
  text->size += size;
  text->bytes[text->size] = '\0';
  return ML_OK;
}

ml_status ml_text_append_code(ml_text *text, uint32_t code) {
  char bytes[4];
  return ml_text_append(text, bytes, ml_utf8_write(code, bytes));
}

size_t ml_utf8_prefix(const char *text, size_t size) {
  size_t i = 0;
  while (i < size) {
    uint64_t eight;
    while (size - i >= sizeof eight) { /* plain ASCII, eight bytes at a time */
      memcpy(&eight, text + i, sizeof eight);
      if (eight & UINT64_C(0x8080808080808080)) break;
      i += sizeof eight;
    }
    if (i == size) break;
    size_t n = ml_utf8_valid(text + i, size - i);
    if (n == 0) break;
    i += n;
  }
  return i;
}

size_t ml_utf8_invalid(const char *text, size_t size, bool *incomplete) {
  const unsigned char *s = (const unsigned char *)text;
  *incomplete = false;
  if (s[0] < 0xc2 || s[0] > 0xf4) return 1;
  size_t wanted = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
  unsigned low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
  unsigned high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
  size_t n = 1;
  while (n < wanted && n < size && s[n] >= low && s[n] <= high) {
    n++;
    low = 0x80;
    high = 0xbf;
  }
  *incomplete = n == size && n < wanted;
  return n;
}

ml_status ml_utf8_append_lossy(ml_text *out, const char *text, size_t size) {
  for (size_t i = 0; i < size;) {
    size_t good = ml_utf8_prefix(text + i, size - i);
    ML_TRY(ml_text_append(out, text + i, good));
    i += good;
    if (i == size) break;
    bool incomplete;
    i += ml_utf8_invalid(text + i, size - i, &incomplete);
    ML_TRY(ml_text_append(out, "\xef\xbf\xbd", 3));
  }
  return ML_OK;
}

/* Printable bytes stand for themselves; the others, in order, for U+0100 on. */
static bool printable(unsigned b) { return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae; }

uint32_t ml_byte_char(unsigned char byte) {
  unsigned b = byte;
  if (printable(b)) return b;
  if (b <= 0x20) return 0x100 + b;
  return b <= 0xa0 ? 0x121 + (b - 0x7f) : 0x143;
}

int ml_char_byte(uint32_t code) {
  if (code < 0x100) return printable(code) ? (int)code : -1;
  if (code <= 0x120) return (int)(code - 0x100);
  if (code <= 0x142) return (int)(code - 0x121 + 0x7f);
  return code == 0x143 ? 0xad : -1;
}
