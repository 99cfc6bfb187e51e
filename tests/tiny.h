/* tiny.h: a tiny model with a tokenizer and a template, and what it is known to say. */
#ifndef ML_TESTS_TINY_H
#define ML_TESTS_TINY_H

#include "scratch.h"

#define TINY_MODEL "tests/goldens/tiny/llama" /* without a tokenizer */

/* Of expected.json beside the model: what it continues this prompt with when it always takes the likeliest token. */
static const int32_t tiny_prompt[] = {90, 14, 79, 59, 97, 59};
static const int32_t tiny_answer[] = {21, 111, 12, 47, 58, 14, 14, 78, 123, 77, 47, 111, 4, 84, 121, 84};
enum { TINY_PROMPT = 6, TINY_ANSWER = 16 };

CHECK_UNUSED static void tiny_link(const char *from, const char *name) {
  char here[512], source[1600];
  if (!getcwd(here, sizeof here)) exit(100);
  snprintf(source, sizeof source, "%s/%s/%s", here, from, name);
  const char *path = scratch_path(name);
  if (symlink(source, path) != 0) {
    perror(path);
    exit(100);
  }
}

/* The folder of the model with the tokenizer of tests/data/letters. */
CHECK_UNUSED static const char *tiny_with_text(void) {
  static const char *const model_files[] = {"config.json", "model.safetensors"};
  static const char *const text_files[] = {"tokenizer.json", "tokenizer_config.json"};
  if (!*scratch_folder) {
    for (int i = 0; i < 2; i++) tiny_link(TINY_MODEL, model_files[i]);
    for (int i = 0; i < 2; i++) tiny_link("tests/data/letters", text_files[i]);
  }
  return scratch_folder;
}

#endif
