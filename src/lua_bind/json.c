/* json.c: json.decode, json.encode and the marks that tell [] from {}. */
#include "lua_bind/json.h"

#include "lua_bind/lua_bind.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 128, MAX_INDENT = 32, STACK_SLOTS = 16 /* what one level of nesting may push */ };

static const char null_address = 0;     /* json.null */
static const char array_meta_key = 0;   /* registry: the metatable that all arrays share */
static const char object_pairs_key = 0; /* registry: the __pairs of objects */

/* The one place where this file turns a status into an error. */
static int raise_status(lua_State *L) { lb_raise(L, ML_USAGE); }

void lb_json_push_null(lua_State *L) { lua_pushlightuserdata(L, (void *)(uintptr_t)&null_address); }

static bool is_null(lua_State *L, int index) {
  return lua_islightuserdata(L, index) && lua_touserdata(L, index) == (const void *)&null_address;
}

/* ---- marks ---- */

typedef enum mark { MARK_NONE, MARK_ARRAY, MARK_OBJECT } mark;

static mark mark_of(lua_State *L, int index) {
  mark found = MARK_NONE;
  if (luaL_getmetafield(L, index, "__name") == LUA_TNIL) return found;
  const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  if (strcmp(name, LB_JSON_ARRAY) == 0) found = MARK_ARRAY;
  if (strcmp(name, LB_JSON_OBJECT) == 0) found = MARK_OBJECT;
  lua_pop(L, 1);
  return found;
}

static int object_pairs(lua_State *L);

/* Marks the table on top of the stack. */
static void mark_array(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &array_meta_key) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, LB_JSON_ARRAY);
    lua_setfield(L, -2, "__name");
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &array_meta_key);
  }
  lua_setmetatable(L, -2);
}

/* Pushes a metatable for one object, with room for its keys. */
static void push_object_meta(lua_State *L, int n_keys) {
  lua_createtable(L, n_keys, 2);
  lua_pushliteral(L, LB_JSON_OBJECT);
  lua_setfield(L, -2, "__name");
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &object_pairs_key) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_pushcfunction(L, object_pairs);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &object_pairs_key);
  }
  lua_setfield(L, -2, "__pairs");
}

/* A table to be marked must not have a metatable that the mark would replace. */
static mark check_markable(lua_State *L, const char *what) {
  lb_check_table(L, 1, what);
  lb_no_more(L, 1, what);
  lua_settop(L, 1);
  mark before = mark_of(L, 1);
  if (before == MARK_NONE && lua_getmetatable(L, 1)) lb_usage(L, "%s: expected a table without a metatable", what);
  return before;
}

static int json_array(lua_State *L) {
  check_markable(L, "json.array");
  mark_array(L);
  return 1;
}

static int json_object(lua_State *L) {
  if (check_markable(L, "json.object") != MARK_OBJECT) {
    push_object_meta(L, 0);
    lua_setmetatable(L, 1);
  }
  return 1;
}

/* ---- walking an object ---- */

/* A key in sorting: numbers first, then strings by their bytes, then the rest as they came. */
typedef struct sort_key {
  int rank;
  lua_Number number;
  const char *text;
  size_t size;
  lua_Integer position;
} sort_key;

static int compare_keys(const void *a, const void *b) {
  const sort_key *x = a, *y = b;
  if (x->rank != y->rank) return x->rank - y->rank;
  if (x->rank == 0 && x->number != y->number) return x->number < y->number ? -1 : 1;
  if (x->rank == 1) {
    int order = memcmp(x->text, y->text, x->size < y->size ? x->size : y->size);
    if (order != 0) return order;
    return x->size < y->size ? -1 : x->size > y->size;
  }
  return x->position < y->position ? -1 : x->position > y->position;
}

/* Appends the n keys in the list at `from`, sorted, to the list at `to`, which has n_to. */
static void append_sorted(lua_State *L, int from, lua_Integer n, int to, lua_Integer n_to) {
  sort_key *keys = lua_newuserdatauv(L, (size_t)n * sizeof *keys, 0);
  for (lua_Integer i = 0; i < n; i++) {
    int type = lua_rawgeti(L, from, i + 1);
    keys[i] = (sort_key){.rank = type == LUA_TNUMBER ? 0 : type == LUA_TSTRING ? 1 : 2, .position = i + 1};
    if (type == LUA_TNUMBER) keys[i].number = lua_tonumber(L, -1);
    if (type == LUA_TSTRING) keys[i].text = lua_tolstring(L, -1, &keys[i].size); /* kept alive by the list */
    lua_pop(L, 1);
  }
  qsort(keys, (size_t)n, sizeof *keys, compare_keys);
  for (lua_Integer i = 0; i < n; i++) {
    lua_rawgeti(L, from, keys[i].position);
    lua_rawseti(L, to, n_to + i + 1);
  }
  lua_pop(L, 1);
}

static lua_Integer count_pairs(lua_State *L, int table) {
  lua_Integer n = 0;
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) n++;
  return n;
}

/* Appends to the list at `list` those recorded in the metatable at `meta` that the table still has. When `seen` is not
 * 0, the table there gets all recorded keys. Returns how many were appended. */
static lua_Integer append_recorded(lua_State *L, int table, int meta, int list, int seen) {
  lua_Integer n = 0, n_recorded = (lua_Integer)lua_rawlen(L, meta);
  for (lua_Integer i = 1; i <= n_recorded; i++) {
    lua_rawgeti(L, meta, i);
    if (seen) {
      lua_pushvalue(L, -1);
      lua_pushboolean(L, 1);
      lua_rawset(L, seen);
      lua_pop(L, 1);
      continue;
    }
    lua_pushvalue(L, -1);
    if (lua_rawget(L, table) == LUA_TNIL) {
      lua_pop(L, 2);
      continue;
    }
    lua_pop(L, 1);
    lua_rawseti(L, list, ++n);
  }
  return n;
}

/* Pushes the list of a table's keys in the order to walk, and returns their number. */
static lua_Integer push_keys(lua_State *L, int table) {
  lua_Integer n = 0, total = count_pairs(L, table);
  lua_createtable(L, total < INT_MAX ? (int)total : 0, 0);
  int list = lua_gettop(L);
  if (mark_of(L, table) == MARK_NONE || !lua_getmetatable(L, table)) lua_newtable(L); /* no keys recorded */
  int meta = list + 1;
  n = append_recorded(L, table, meta, list, 0);
  if (n < total) {
    lua_newtable(L); /* seen */
    append_recorded(L, table, meta, list, meta + 1);
    lua_newtable(L); /* keys added later */
    lua_Integer n_added = 0;
    for (lua_pushnil(L); lua_next(L, table);) {
      lua_pop(L, 1);
      lua_pushvalue(L, -1);
      if (lua_rawget(L, meta + 1) == LUA_TNIL) {
        lua_pushvalue(L, -2);
        lua_rawseti(L, meta + 2, ++n_added);
      }
      lua_pop(L, 1);
    }
    append_sorted(L, meta + 2, n_added, list, n);
  }
  lua_settop(L, list);
  return total;
}

/* The iterator; upvalues: the list of keys, the position in it. Keys whose values have become nil are passed over. */
static int object_next(lua_State *L) {
  lua_Integer at = lua_tointeger(L, lua_upvalueindex(2));
  lua_settop(L, 1);
  while (lua_rawgeti(L, lua_upvalueindex(1), ++at) != LUA_TNIL) {
    lua_pushvalue(L, -1);
    if (lua_rawget(L, 1) != LUA_TNIL) {
      lua_pushinteger(L, at);
      lua_replace(L, lua_upvalueindex(2));
      return 2;
    }
    lua_settop(L, 1);
  }
  return 1; /* the nil */
}

static int object_pairs(lua_State *L) {
  lb_check_table(L, 1, "pairs");
  push_keys(L, 1);
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, object_next, 2);
  lua_pushvalue(L, 1);
  lua_pushnil(L);
  return 3;
}

/* ---- decode ---- */

static void push_object(lua_State *L, const ml_json *object) {
  size_t n = ml_json_length(object);
  int size = n < INT_MAX ? (int)n : 0;
  lua_createtable(L, 0, size);
  push_object_meta(L, size);
  ml_json_iter iter = {0};
  for (lua_Integer i = 1; ml_json_next(object, &iter); i++) {
    lua_pushstring(L, iter.key);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, i);
    lb_json_push(L, iter.value);
    lua_rawset(L, -4);
  }
  lua_setmetatable(L, -2);
}

static void push_array(lua_State *L, const ml_json *array) {
  size_t n = ml_json_length(array);
  lua_createtable(L, n < INT_MAX ? (int)n : 0, 0);
  for (size_t i = 0; i < n; i++) {
    lb_json_push(L, ml_json_at(array, i));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  mark_array(L);
}

void lb_json_push(lua_State *L, const ml_json *value) {
  luaL_checkstack(L, STACK_SLOTS, "JSON is nested too deep");
  switch (ml_json_type(value)) {
  case ML_JSON_NULL: lb_json_push_null(L); break;
  case ML_JSON_BOOL: lua_pushboolean(L, ml_json_bool(value)); break;
  case ML_JSON_INT: lua_pushinteger(L, ml_json_int(value)); break;
  case ML_JSON_FLOAT: lua_pushnumber(L, ml_json_float(value)); break;
  case ML_JSON_ARRAY: push_array(L, value); break;
  case ML_JSON_OBJECT: push_object(L, value); break;
  case ML_JSON_STRING: {
    size_t size;
    const char *text = ml_json_string(value, &size);
    lua_pushlstring(L, text, size);
    break;
  }
  }
}

static int close_doc(lua_State *L) {
  ml_json_doc **doc = lua_touserdata(L, 1);
  ml_json_close(*doc);
  *doc = NULL;
  return 0;
}

/* json.decode(text) -> value, or nil, message, code. */
static int json_decode(lua_State *L) {
  size_t size;
  const char *text = lb_check_text(L, 1, "json.decode", &size);
  lb_no_more(L, 1, "json.decode");
  lua_settop(L, 1);
  ml_json_doc **doc = lua_newuserdatauv(L, sizeof *doc, 0);
  *doc = NULL;
  if (luaL_newmetatable(L, "moonlet.json.document")) {
    lua_pushcfunction(L, close_doc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, 2);
  ml_status status = ml_json_parse(text, size, "json", doc);
  if (status != ML_OK) {
    lua_pushnil(L);
    lua_pushstring(L, ml_error_message());
    lua_pushstring(L, ml_status_name(status));
    return 3;
  }
  lb_json_push(L, ml_json_root(*doc));
  ml_json_close(*doc);
  *doc = NULL;
  return 1;
}

/* ---- encode ---- */

typedef struct encoder {
  ml_json_writer text;
  int indent; /* spaces a level; -1: all on one line */
  int depth;
} encoder;

static void write_text(encoder *e, const char *text) { ml_json_write_raw(&e->text, text, strlen(text)); }

/* The comma before all items but the first, and the new line. */
static void write_separator(encoder *e, bool first) {
  if (!first) write_text(e, ",");
  if (e->indent < 0) return;
  write_text(e, "\n");
  for (int i = 0; i < e->indent * e->depth; i++) write_text(e, " ");
}

static ml_status encode_value(lua_State *L, int index, encoder *e);

static ml_status encode_array(lua_State *L, int table, lua_Integer n, encoder *e) {
  write_text(e, "[");
  e->depth++;
  for (lua_Integer i = 1; i <= n; i++) {
    write_separator(e, i == 1);
    lua_rawgeti(L, table, i);
    ml_status status = encode_value(L, lua_gettop(L), e);
    lua_pop(L, 1);
    if (status != ML_OK) return ml_fail_prefix(status, "item %lld", (long long)i);
  }
  e->depth--;
  if (n > 0) write_separator(e, true);
  write_text(e, "]");
  return e->text.status;
}

static ml_status encode_member(lua_State *L, int table, encoder *e) {
  int key = lua_gettop(L);
  if (lua_type(L, key) != LUA_TSTRING) {
    return ml_fail(ML_USAGE, "expected keys that are strings, found a %s", luaL_typename(L, key));
  }
  size_t size;
  const char *text = lua_tolstring(L, key, &size);
  ml_json_write_string(&e->text, text, size);
  write_text(e, e->indent < 0 ? ":" : ": ");
  lua_pushvalue(L, key);
  lua_rawget(L, table);
  ml_status status = encode_value(L, key + 1, e);
  lua_pop(L, 1);
  return ml_fail_prefix(status, "key '%.80s'", text);
}

static ml_status encode_object(lua_State *L, int table, encoder *e) {
  lua_Integer n = push_keys(L, table);
  int keys = lua_gettop(L);
  write_text(e, "{");
  e->depth++;
  for (lua_Integer i = 1; i <= n; i++) {
    write_separator(e, i == 1);
    lua_rawgeti(L, keys, i);
    ML_TRY(encode_member(L, table, e)); /* what lies on the stack goes with the error */
    lua_pop(L, 1);
  }
  e->depth--;
  if (n > 0) write_separator(e, true);
  write_text(e, "}");
  lua_pop(L, 1);
  return e->text.status;
}

/* True when the table's keys are 1..n, and nothing else. */
static bool is_sequence(lua_State *L, int table, lua_Integer *n) {
  *n = (lua_Integer)lua_rawlen(L, table);
  if (count_pairs(L, table) != *n) return false;
  for (lua_Integer i = 1; i <= *n; i++) {
    bool there = lua_rawgeti(L, table, i) != LUA_TNIL;
    lua_pop(L, 1);
    if (!there) return false;
  }
  return true;
}

static ml_status encode_table(lua_State *L, int table, encoder *e) {
  if (e->depth == MAX_DEPTH) return ml_fail(ML_USAGE, "nested deeper than %d levels, or within itself", MAX_DEPTH);
  lua_Integer n;
  mark marked = mark_of(L, table);
  if (marked == MARK_OBJECT) return encode_object(L, table, e);
  if (is_sequence(L, table, &n)) return encode_array(L, table, n, e);
  if (marked == MARK_ARRAY || n > 0) {
    return ml_fail(ML_USAGE, "a table with a hole, or with keys beside its items, is not JSON");
  }
  return encode_object(L, table, e);
}

static ml_status encode_number(lua_State *L, int index, encoder *e) {
  if (lua_isinteger(L, index)) ml_json_write_int(&e->text, lua_tointeger(L, index));
  else ml_json_write_float(&e->text, lua_tonumber(L, index));
  return e->text.status;
}

/* The type's own name where it has one: "moonlet.Tensor" rather than "userdata". */
static const char *type_name(lua_State *L, int index) {
  const char *name = luaL_typename(L, index);
  int type = luaL_getmetafield(L, index, "__name");
  if (type == LUA_TSTRING) name = lua_tostring(L, -1); /* the metatable keeps it */
  if (type != LUA_TNIL) lua_pop(L, 1);
  return name;
}

static ml_status encode_value(lua_State *L, int index, encoder *e) {
  luaL_checkstack(L, STACK_SLOTS, "JSON is nested too deep");
  size_t size;
  const char *text;
  switch (lua_type(L, index)) {
  case LUA_TBOOLEAN: write_text(e, lua_toboolean(L, index) ? "true" : "false"); return e->text.status;
  case LUA_TNUMBER: return encode_number(L, index, e);
  case LUA_TTABLE: return encode_table(L, index, e);
  case LUA_TSTRING:
    text = lua_tolstring(L, index, &size);
    ml_json_write_string(&e->text, text, size);
    return e->text.status;
  case LUA_TLIGHTUSERDATA:
    if (!is_null(L, index)) break;
    write_text(e, "null");
    return e->text.status;
  default: break;
  }
  return ml_fail(ML_USAGE, "a %.80s is not JSON", type_name(L, index));
}

static int free_encoder(lua_State *L) {
  encoder *e = lua_touserdata(L, 1);
  ml_json_writer_free(&e->text);
  return 0;
}

/* The indent of the options at 2, -1 without; other options raise. */
static int check_indent(lua_State *L) {
  int indent = -1;
  if (lua_isnoneornil(L, 2)) return indent;
  lb_check_table(L, 2, "json.encode: options");
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
    if (strcmp(key, "indent") != 0) {
      ml_fail(ML_USAGE, "json.encode: unknown option '%.80s'", key);
      return raise_status(L);
    }
    int exact;
    lua_Integer n = lua_tointegerx(L, -1, &exact);
    if (!exact || n < 0 || n > MAX_INDENT) {
      ml_fail(ML_USAGE, "json.encode: indent: expected an integer from 0 to %d", MAX_INDENT);
      return raise_status(L);
    }
    indent = (int)n;
  }
  return indent;
}

/* json.encode(value, {indent = n}) -> text. */
static int json_encode(lua_State *L) {
  if (lua_isnone(L, 1)) lb_usage(L, "expected a value, found none");
  lb_no_more(L, 2, "json.encode");
  int indent = check_indent(L);
  lua_settop(L, 1);
  encoder *e = lua_newuserdatauv(L, sizeof *e, 0);
  *e = (encoder){.indent = indent};
  if (luaL_newmetatable(L, "moonlet.json.encoder")) {
    lua_pushcfunction(L, free_encoder);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, 2);
  ml_status status = encode_value(L, 1, e);
  if (status != ML_OK) {
    ml_json_writer_free(&e->text);
    ml_fail_prefix(status, "json.encode");
    return raise_status(L);
  }
  lua_pushlstring(L, e->text.text, e->text.size);
  ml_json_writer_free(&e->text);
  return 1;
}

int lb_open_json(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"decode", json_decode}, {"encode", json_encode}, {"array", json_array}, {"object", json_object}, {NULL, NULL}};
  luaL_newlib(L, functions);
  lb_json_push_null(L);
  lua_setfield(L, -2, "null");
  return 1;
}
