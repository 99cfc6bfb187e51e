/* files.h: open checkpoint files for the Lua floor. */
#ifndef ML_LUA_BIND_FILES_H
#define ML_LUA_BIND_FILES_H

#include "io/gguf.h"

#include <lua.h>

/* The checkpoint behind an open file handle; raises when it is closed. */
const ml_checkpoint *lb_check_checkpoint(lua_State *L, int index);
/* The GGUF behind it, or NULL for safetensors. */
const ml_gguf *lb_check_gguf(lua_State *L, int index);
int lb_file_load(lua_State *L); /* weights.c */

#endif
