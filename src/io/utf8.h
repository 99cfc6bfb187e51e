/* utf8.h: well-formed UTF-8, as Unicode's table 3-7 defines it: no overlong forms, no surrogates, nothing past
 * U+10FFFF. */
#ifndef ML_IO_UTF8_H
#define ML_IO_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed sequence that `text` begins with: 1 to 4, or 0 when there is none. */
static inline size_t ml_utf8_valid(const char *text, size_t size) {
  const unsigned char *s = (const unsigned char *)text;
  if (size == 0) return 0;
  if (s[0] < 0x80) return 1;
  if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
  size_t n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
  if (size < n) return 0;
  unsigned low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
  unsigned high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
  if (s[1] < low || s[1] > high) return 0;
  for (size_t i = 2; i < n; i++) {
    if ((s[i] & 0xc0) != 0x80) return 0;
  }
  return n;
}

/* Writes a code point (no surrogate, at most U+10FFFF) and returns its 1 to 4 bytes. */
static inline size_t ml_utf8_write(uint32_t code, char *to) {
  if (code < 0x80) {
    to[0] = (char)code;
    return 1;
  }
  size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--, code >>= 6) to[i] = (char)(0x80 | (code & 0x3f));
  to[0] = (char)((0xf00 >> n & 0xff) | code);
  return n;
}

#endif
