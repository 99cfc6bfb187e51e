/* embedded.h: the lua/ directory that the library carries inside (made by tools/embed.lua). */
#ifndef ML_LUA_BIND_EMBEDDED_H
#define ML_LUA_BIND_EMBEDDED_H

#include <stddef.h>

typedef struct ml_embedded_file {
  const char *path; /* relative to lua/: "models/llama.lua" */
  const char *code; /* compiled */
  size_t size;
} ml_embedded_file;

/* Ends with a NULL path. */
extern const ml_embedded_file ml_embedded_files[];

#endif
