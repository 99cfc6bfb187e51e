/* fuzz_gguf.c: any bytes as a GGUF file; when they are accepted, every key, item and tensor is touched. */
#include "io/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long touched; /* so that reads are not removed */

static void touch(const uint8_t *data, size_t size) {
  for (size_t i = 0; i < size; i++) touched += data[i];
}

static void touch_array(const ml_gguf *gguf, const ml_gguf_value *value) {
  for (uint64_t i = 0; i <= value->length; i++) { /* one beyond the end is refused */
    size_t size;
    int64_t integer;
    double number;
    const char *text = ml_gguf_string_at(gguf, value, i, &size);
    if (text) touch((const uint8_t *)text, size);
    if (ml_gguf_int_at(value, i, &integer) == ML_OK) touched += (unsigned long)integer;
    if (ml_gguf_float_at(value, i, &number) == ML_OK) touched += number > 0;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ml_file *file;
  ml_gguf *gguf;
  if (ml_file_from_memory("fuzz", data, size, &file) != ML_OK || ml_gguf_parse(file, &gguf) != ML_OK) return 0;
  for (size_t i = 0; i < gguf->n_pairs; i++) {
    const ml_gguf_value *value = &gguf->pairs[i].value;
    if (ml_gguf_get(gguf, gguf->pairs[i].key) != value) __builtin_trap();
    if (value->type == ML_GGUF_STRING) touch(value->data, (size_t)value->length);
    if (value->type == ML_GGUF_ARRAY) touch_array(gguf, value);
  }
  for (size_t i = 0; i < gguf->checkpoint.n_entries; i++) {
    const ml_entry *entry = &gguf->checkpoint.entries[i];
    if (ml_checkpoint_find(&gguf->checkpoint, entry->name) != entry) __builtin_trap();
    touch(data + entry->offset, entry->bytes);
  }
  ml_gguf_close(gguf);
  return 0;
}
