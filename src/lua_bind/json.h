/* json.h: JSON for Lua.
 *
 * A decoded object is a table whose metatable has __name = "moonlet.json.object", the keys in the order of the text at
 * 1..n, and a __pairs that walks in that order: keys removed since are passed over, keys added since come last, sorted.
 * A decoded array is a table 1..n whose metatable has __name = "moonlet.json.array". Null is json.null. */
#ifndef ML_LUA_BIND_JSON_H
#define ML_LUA_BIND_JSON_H

#include "io/json.h"

#include <lua.h>

#define LB_JSON_ARRAY "moonlet.json.array"
#define LB_JSON_OBJECT "moonlet.json.object"

/* Pushes the table {decode, encode, null, array, object}. */
int lb_open_json(lua_State *L);
/* Pushes a value as json.decode would give it. May raise for want of memory: the document must belong to a userdata. */
void lb_json_push(lua_State *L, const ml_json *value);
/* Pushes json.null, a light userdata: truthy and equal to itself alone, in every state. */
void lb_json_push_null(lua_State *L);

#endif
