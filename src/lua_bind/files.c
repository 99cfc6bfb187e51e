/* files.c: safetensors and GGUF files as handles, and saving tensors. */
#include "lua_bind/files.h"

#include "io/json.h"
#include "io/names.h"
#include "lua_bind/json.h"
#include "lua_bind/lua_bind.h"

#include <limits.h>
#include <string.h>

#define LB_FILE "moonlet.File"

typedef struct file_handle {
  ml_checkpoint *safetensors;
  ml_gguf *gguf;
} file_handle;

static int file_close(lua_State *L) {
  file_handle *h = lb_check_handle(L, 1, LB_FILE);
  ml_checkpoint_close(h->safetensors);
  ml_gguf_close(h->gguf);
  *h = (file_handle){NULL, NULL};
  return 0;
}

static file_handle *new_file(lua_State *L) {
  file_handle *h = lua_newuserdatauv(L, sizeof *h, 0);
  *h = (file_handle){NULL, NULL};
  luaL_setmetatable(L, LB_FILE);
  return h;
}

const ml_checkpoint *lb_check_checkpoint(lua_State *L, int index) {
  file_handle *h = lb_check_handle(L, index, LB_FILE);
  if (!h->safetensors && !h->gguf) lb_usage(L, "the file is closed");
  return h->safetensors ? h->safetensors : &h->gguf->checkpoint;
}

const ml_gguf *lb_check_gguf(lua_State *L, int index) {
  return ((file_handle *)lb_check_handle(L, index, LB_FILE))->gguf;
}

/* open_safetensors(path [, directory]), open_gguf(path) -> file | nil, message, code */
static int open_safetensors(lua_State *L) {
  const char *path = lb_check_path(L, 1, "path");
  bool directory = lua_toboolean(L, 2);
  file_handle *h = new_file(L);
  ml_status status =
      directory ? ml_safetensors_open_directory(path, &h->safetensors) : ml_safetensors_open(path, &h->safetensors);
  return status == ML_OK ? 1 : lb_fail(L, status);
}

static int open_gguf(lua_State *L) {
  const char *path = lb_check_path(L, 1, "path");
  file_handle *h = new_file(L);
  ml_status status = ml_gguf_open(path, &h->gguf);
  return status == ML_OK ? 1 : lb_fail(L, status);
}

/* file:entries() -> { {name, dtype, shape, bytes}, ... } sorted by name */
static int file_entries(lua_State *L) {
  const ml_checkpoint *c = lb_check_checkpoint(L, 1);
  lua_createtable(L, (int)c->n_entries, 0);
  for (size_t i = 0; i < c->n_entries; i++) {
    const ml_entry *e = &c->entries[i];
    lua_createtable(L, 0, 4);
    lua_pushstring(L, e->name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, ml_dtype_name(e->dtype));
    lua_setfield(L, -2, "dtype");
    lua_pushinteger(L, (lua_Integer)e->bytes);
    lua_setfield(L, -2, "bytes");
    lua_createtable(L, e->ndim, 0);
    for (int d = 0; d < e->ndim; d++) {
      lua_pushinteger(L, e->shape[d]);
      lua_rawseti(L, -2, d + 1);
    }
    lua_setfield(L, -2, "shape");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static void push_gguf_scalar(lua_State *L, const ml_gguf_value *v) {
  switch (v->type) {
  case ML_GGUF_BOOL: lua_pushboolean(L, v->as.b); return;
  case ML_GGUF_FLOAT32:
  case ML_GGUF_FLOAT64: lua_pushnumber(L, v->as.f); return;
  case ML_GGUF_INT8:
  case ML_GGUF_INT16:
  case ML_GGUF_INT32:
  case ML_GGUF_INT64: lua_pushinteger(L, v->as.i); return;
  default: lua_pushinteger(L, (lua_Integer)v->as.u); return;
  }
}

static void push_gguf_value(lua_State *L, const ml_gguf *g, const ml_gguf_value *v) {
  if (v->type == ML_GGUF_STRING) {
    lua_pushlstring(L, (const char *)v->data, (size_t)v->length);
    return;
  }
  if (v->type != ML_GGUF_ARRAY) {
    push_gguf_scalar(L, v);
    return;
  }
  lua_createtable(L, v->length < INT32_MAX ? (int)v->length : 0, 0);
  for (uint64_t i = 0; i < v->length; i++) {
    int64_t whole;
    double real;
    size_t size;
    if (v->item_type == ML_GGUF_STRING) {
      const char *text = ml_gguf_string_at(g, v, i, &size);
      lua_pushlstring(L, text, size);
    } else if (v->item_type == ML_GGUF_FLOAT32 || v->item_type == ML_GGUF_FLOAT64) {
      lb_check(L, ml_gguf_float_at(v, i, &real));
      lua_pushnumber(L, real);
    } else {
      lb_check(L, ml_gguf_int_at(v, i, &whole));
      if (v->item_type == ML_GGUF_BOOL) lua_pushboolean(L, whole != 0);
      else lua_pushinteger(L, whole);
    }
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* file:metadata([longest]) -> {key = value}; of GGUF, arrays longer than `longest` are left out. */
static int file_metadata(lua_State *L) {
  const ml_checkpoint *c = lb_check_checkpoint(L, 1);
  const ml_gguf *g = lb_check_gguf(L, 1);
  lua_Integer longest = lua_isnoneornil(L, 2) ? INT64_MAX : lb_check_integer(L, 2, "longest");
  lua_createtable(L, 0, 32);
  for (size_t i = 0; g && i < g->n_pairs; i++) {
    const ml_gguf_value *v = &g->pairs[i].value;
    if (v->type == ML_GGUF_ARRAY && v->length > (uint64_t)longest) continue;
    push_gguf_value(L, g, v);
    lua_setfield(L, -2, g->pairs[i].key);
  }
  for (size_t i = 0; !g && i < c->n_meta; i++) {
    lua_pushstring(L, c->meta[i].value);
    lua_setfield(L, -2, c->meta[i].key);
  }
  return 1;
}

/* save_safetensors(path, names, tensors, meta_keys, meta_values) -> true | nil, message, code: lists in the order of
 * the file. */
static int save_safetensors(lua_State *L) {
  static const char me[] = "save_safetensors";
  const char *path = lb_check_path(L, 1, me);
  lua_settop(L, 5);
  size_t n = (size_t)lb_length(L, 2, me), n_meta = lua_istable(L, 4) ? (size_t)lb_length(L, 4, me) : 0;
  lb_check_table(L, 3, me);
  if (n_meta) lb_check_table(L, 5, me);
  ml_save_item *items = lua_newuserdatauv(L, (n + 1) * sizeof *items, 0);
  ml_meta *meta = lua_newuserdatauv(L, (n_meta + 1) * sizeof *meta, 0);
  luaL_checkstack(L, 20, "too many tensors");
  lua_createtable(L, (int)n, 0);
  int keep = lua_gettop(L);
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, 2, (lua_Integer)i + 1);
    lua_rawgeti(L, 3, (lua_Integer)i + 1);
    lb_check_text(L, -2, "save_safetensors: a tensor's name", NULL);
    ml_tensor *t = lb_check_tensor(L, -1, lua_tostring(L, -2));
    size_t bytes = ml_tensor_nbytes(t);
    lb_eval(L, &t, 1);
    bool block = ml_dtype_is_block(t->dtype); /* which the file refuses by name */
    char *data = lua_newuserdatauv(L, block ? 1 : bytes + 1, 0);
    ml_status status = block ? ML_OK : ml_tensor_read(t, data);
    if (status != ML_OK) return lb_fail(L, ml_fail_prefix(status, "%s: tensor '%s'", path, lua_tostring(L, -3)));
    lua_rawseti(L, keep, (lua_Integer)i + 1);
    items[i] = (ml_save_item){lua_tostring(L, -2), t->dtype, t->ndim, t->shape, data, bytes};
    lua_pop(L, 2);
  }
  for (size_t i = 0; i < n_meta; i++) {
    lua_rawgeti(L, 4, (lua_Integer)i + 1);
    lua_rawgeti(L, 5, (lua_Integer)i + 1);
    meta[i] =
        (ml_meta){(char *)(uintptr_t)lb_check_text(L, -2, me, NULL), (char *)(uintptr_t)lb_check_text(L, -1, me, NULL)};
    lua_pop(L, 2); /* the lists keep them alive */
  }
  ml_status status = ml_safetensors_save(path, items, n, meta, n_meta);
  if (status != ML_OK) return lb_fail(L, status);
  lua_pushboolean(L, true);
  return 1;
}

/* A zeroed structure on the stack, which the collector frees if an error does not let us. */
static void *new_box(lua_State *L, size_t size, lua_CFunction gc) {
  void *box = memset(lua_newuserdatauv(L, size, 0), 0, size);
  lua_createtable(L, 0, 1);
  lb_set(L, "__gc", gc);
  lua_setmetatable(L, -2);
  return box;
}

static int doc_gc(lua_State *L) {
  ml_json_doc **box = lua_touserdata(L, 1);
  ml_json_close(*box);
  *box = NULL;
  return 0;
}

/* read_json(path) -> value | nil, message, code */
static int read_json(lua_State *L) {
  const char *path = lb_check_path(L, 1, "path");
  ml_json_doc **box = new_box(L, sizeof *box, doc_gc);
  ml_status status = ml_json_load_config(path, box);
  if (status != ML_OK) return lb_fail(L, status);
  lb_json_push(L, ml_json_root(*box));
  ml_json_close(*box);
  *box = NULL;
  return 1;
}

/* path_kind(path) -> "directory", "file" or nil */
static int path_kind(lua_State *L) {
  const char *path = lb_check_path(L, 1, "path");
  if (ml_path_is_directory(path)) lua_pushliteral(L, "directory");
  else if (ml_path_exists(path)) lua_pushliteral(L, "file");
  else lua_pushnil(L);
  return 1;
}

/* real_path(path) -> the absolute path without links and dots, nil where there is no such path */
static int real_path(lua_State *L) {
  char buf[PATH_MAX];
  lua_pushstring(L, ml_path_real(lb_check_path(L, 1, "path"), buf));
  return 1;
}

static int names_gc(lua_State *L) {
  ml_names_free(lua_touserdata(L, 1));
  return 0;
}

/* list_directory(path) -> sorted names | nil, message, code */
static int list_directory(lua_State *L) {
  const char *path = lb_check_path(L, 1, "path");
  ml_names *list = new_box(L, sizeof *list, names_gc);
  ml_status status = ml_directory_names(path, list);
  if (status != ML_OK) return lb_fail(L, status);
  lua_createtable(L, list->count < INT32_MAX ? (int)list->count : 0, 0);
  for (size_t i = 0; i < list->count; i++) {
    lua_pushstring(L, list->items[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  ml_names_free(list);
  return 1;
}

/* write_file(path, bytes) -> true | nil, message, code: through a temporary and a rename */
static int write_file(lua_State *L) {
  size_t size;
  const char *path = lb_check_path(L, 1, "path"), *data = lb_check_text(L, 2, "write_file", &size);
  ml_status status = ml_file_write(path, data, size);
  if (status != ML_OK) return lb_fail(L, status);
  lua_pushboolean(L, true);
  return 1;
}

int lb_open_files(lua_State *L) {
  luaL_newmetatable(L, LB_FILE);
  static const luaL_Reg methods[] = {{"entries", file_entries},
                                     {"metadata", file_metadata},
                                     {"load", lb_file_load},
                                     {"close", file_close},
                                     {"__gc", file_close},
                                     {"__close", file_close},
                                     {NULL, NULL}};
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  static const luaL_Reg functions[] = {{"open_safetensors", open_safetensors},
                                       {"open_gguf", open_gguf},
                                       {"save_safetensors", save_safetensors},
                                       {"read_json", read_json},
                                       {"path_kind", path_kind},
                                       {"real_path", real_path},
                                       {"write_file", write_file},
                                       {"list_directory", list_directory},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
