/* fuzz_safetensors.c: any bytes as a safetensors file; what is accepted must tile the file and be found by name. */
#include "io/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long touched; /* so that reads are not removed */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ml_file *file;
  ml_checkpoint *checkpoint;
  if (ml_file_from_memory("fuzz", data, size, &file) != ML_OK || ml_safetensors_parse(file, &checkpoint) != ML_OK)
    return 0;
  size_t total = 0;
  for (size_t i = 0; i < checkpoint->n_entries; i++) {
    const ml_entry *entry = &checkpoint->entries[i];
    size_t bytes;
    if (ml_checkpoint_find(checkpoint, entry->name) != entry) __builtin_trap();
    if (!ml_entry_bytes(entry->dtype, entry->ndim, entry->shape, &bytes) || bytes != entry->bytes) __builtin_trap();
    for (size_t k = 0; k < entry->bytes; k++) touched += data[entry->offset + k];
    total += bytes;
  }
  uint64_t header = 0;
  for (int i = 7; i >= 0; i--) header = header << 8 | data[i];
  if (8 + header + total != size) __builtin_trap();
  for (size_t i = 0; i < checkpoint->n_meta; i++) touched += (unsigned char)checkpoint->meta[i].key[0];
  ml_checkpoint_close(checkpoint);
  return 0;
}
