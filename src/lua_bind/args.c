/* args.c: arguments by signature, and the one place where positions of Lua become positions of C. */
#include "base/numeric.h"
#include "lua_bind/lua_bind.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Misuse raises an error object, like all else; lauxlib's own checks raise text. */

/* What stands at `index`, for messages: "nothing", a text in quotes, a number, else "a table". */
static const char *found(lua_State *L, int index) {
  switch (lua_type(L, index)) {
  case LUA_TNONE:
  case LUA_TNIL: return "nothing";
  case LUA_TSTRING: {
    char text[64]; /* the beginning of a long one */
    snprintf(text, sizeof text, "\"%s\"", lua_tostring(L, index));
    return lua_pushstring(L, text);
  }
  case LUA_TNUMBER: {
    char text[40];
    if (lua_isinteger(L, index)) return luaL_tolstring(L, index, NULL);
    ml_number_text(text, sizeof text, 14, lua_tonumber(L, index));
    return lua_pushfstring(L, strpbrk(text, ".eni") ? "%s" : "%s.0", text); /* as Lua writes floats */
  }
  case LUA_TBOOLEAN: return luaL_tolstring(L, index, NULL);
  default: return lua_pushfstring(L, "a %s", luaL_testudata(L, index, LB_TENSOR) ? "tensor" : luaL_typename(L, index));
  }
}

void lb_unexpected(lua_State *L, int index, const char *what, const char *expected) {
  lb_usage(L, "%s: expected %s, found %s", what, expected, found(L, index));
}

const char *lb_check_text(lua_State *L, int index, const char *what, size_t *size) {
  if (lua_type(L, index) != LUA_TSTRING) lb_unexpected(L, index, what, "a string");
  return lua_tolstring(L, index, size);
}

const char *lb_check_path(lua_State *L, int index, const char *what) {
  size_t size;
  if (lua_type(L, index) != LUA_TSTRING) lb_unexpected(L, index, what, "a path");
  const char *path = lua_tolstring(L, index, &size);
  if (strlen(path) != size) lb_usage(L, "%s: expected a path, found a zero byte in it", what);
  return path;
}

double lb_check_number(lua_State *L, int index, const char *what) {
  if (lua_type(L, index) != LUA_TNUMBER) lb_unexpected(L, index, what, "a number");
  return lua_tonumber(L, index);
}

void lb_check_table(lua_State *L, int index, const char *what) {
  if (!lua_istable(L, index)) lb_unexpected(L, index, what, "a table");
}

void *lb_check_handle(lua_State *L, int index, const char *class) {
  void *handle = luaL_testudata(L, index, class);
  if (!handle) lb_usage(L, "expected a %s, found %s: methods are called with a colon", class, found(L, index));
  return handle;
}

/* Keys beside the entries of a list would be lost: they are an error. The n of table.pack is none. Only what lies
 * behind the last entry is looked at, where in a list that was filled in another order some entries lie too. */
static void refuse_keys(lua_State *L, int index, lua_Integer n, const char *what) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 4, "nested too deep");
  lua_pushnil(L); /* from the first on: entries may lie between names */
  while (lua_next(L, index)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
    bool packed = key && strcmp(key, "n") == 0 && lua_isinteger(L, -1) && lua_tointeger(L, -1) == n;
    if (key && !packed) lb_usage(L, "%s: expected a list, found the name \"%s\" in it", what, key);
    bool entry = lua_isinteger(L, -2) && lua_tointeger(L, -2) >= 1 && lua_tointeger(L, -2) <= n;
    if (!key && !entry) lb_usage(L, "%s: expected a list, found the key %s in it", what, luaL_tolstring(L, -2, NULL));
    lua_pop(L, 1);
  }
}

lua_Integer lb_length(lua_State *L, int index, const char *what) {
  if (!lua_istable(L, index)) lb_unexpected(L, index, what, "a list");
  lua_Integer n = (lua_Integer)lua_rawlen(L, index);
  refuse_keys(L, index, n, what);
  return n;
}

int64_t lb_check_integer(lua_State *L, int index, const char *what) {
  int ok;
  lua_Integer i = lua_tointegerx(L, index, &ok); /* takes floats of integer value */
  if (!ok || lua_type(L, index) != LUA_TNUMBER) lb_unexpected(L, index, what, "an integer");
  return i;
}

int64_t lb_to_axis(lua_State *L, int index, const char *what) {
  int64_t axis = lb_check_integer(L, index, what);
  if (axis == 0) lb_usage(L, "%s: expected an axis from 1, or from -1 at the end, found 0", what);
  return axis > 0 ? axis - 1 : axis; /* whether the operand has such an axis, the operation's shape rule says */
}

ml_dtype lb_check_dtype(lua_State *L, int index, const char *what) {
  ml_dtype t;
  const char *name = lua_type(L, index) == LUA_TSTRING ? lua_tostring(L, index) : NULL;
  if (!name || !ml_dtype_find(name, &t)) lb_unexpected(L, index, what, "a name such as \"float32\"");
  return t;
}

/* A list of integers at `index`; returns how many. */
static int read_list(lua_State *L, int index, int64_t *list, int max, const char *what, bool axes) {
  int n = (int)lb_length(L, index, what);
  if (n > max) lb_usage(L, "%s: expected at most %d entries, found %d", what, max, n);
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, index, i + 1);
    list[i] = axes ? lb_to_axis(L, -1, what) : lb_check_integer(L, -1, what);
    lua_pop(L, 1);
  }
  return n;
}

int lb_check_shape(lua_State *L, int index, const char *what, int64_t *shape) {
  if (lua_type(L, index) == LUA_TNUMBER) {
    shape[0] = lb_check_integer(L, index, what);
    return 1;
  }
  if (!lua_istable(L, index)) lb_unexpected(L, index, what, "a list of sizes");
  return read_list(L, index, shape, ML_MAX_DIMS, what, false);
}

/* One entry of slice: {first, last, step}, 1-based, inclusive, negative from the end -> start, count, step. */
static void read_range(lua_State *L, int index, int64_t size, int64_t *range) {
  int64_t v[3] = {0, 0, 1};
  bool given[3] = {false, false, false};
  if (!lua_istable(L, index)) lb_unexpected(L, index, "slice", "{first, last, step} for each axis");
  lua_Integer n = lb_length(L, index, "slice");
  if (n > 3) lb_usage(L, "slice: expected {first, last, step}, found %lld entries", (long long)n);
  for (int i = 0; i < 3; i++) {
    if (lua_rawgeti(L, index, i + 1) != LUA_TNIL) v[i] = lb_check_integer(L, -1, "slice"), given[i] = true;
    lua_pop(L, 1);
  }
  int64_t step = v[2];
  if (step == 0) lb_usage(L, "slice: a step of 0");
  if (given[0] && v[0] == 0) lb_usage(L, "slice: expected a first position from 1, or from -1 at the end, found 0");
  int64_t first = given[0] ? v[0] : step > 0 ? 1 : -1, last = given[1] ? v[1] : step > 0 ? -1 : 1;
  if (first < 0) first += size + 1;
  if (last < 0) last += size + 1;
  if (step > 0) {
    if (first < 1) first = 1;
    if (last > size) last = size;
  } else {
    if (first > size) first = size;
    if (last < 1) last = 1;
  }
  int64_t count = 0; /* of a range that is not empty, first and last lie in 1..size */
  if (step > 0 && first <= last) count = (last - first) / step + 1;
  if (step < 0 && first >= last) count = (last - first) / step + 1;
  range[0] = count > 0 ? first - 1 : 0;
  range[1] = count;
  range[2] = step;
}

/* ml_attrs_give, which raises where a row asks for more lists than have a place. */
static int64_t *give_list(lua_State *L, ml_attrs *a, ml_list *list, int64_t n) {
  int64_t *entries = ml_attrs_give(a, list, n);
  if (!entries) lb_usage(L, "an operation has at most %d entries in all its lists", ML_MAX_LIST);
  return entries;
}

static void read_ranges(lua_State *L, int index, const ml_tensor *x, ml_attrs *attrs, ml_list *list) {
  if (!lua_istable(L, index)) lb_unexpected(L, index, "slice", "a list of ranges, {first, last, step} an axis");
  int n = (int)lb_length(L, index, "slice");
  if (n > x->ndim) lb_usage(L, "slice: expected at most %d ranges, found %d", x->ndim, n);
  int64_t *ranges = give_list(L, attrs, list, 3 * x->ndim);
  for (int d = 0; d < x->ndim; d++) {
    if (d < n) lua_rawgeti(L, index, d + 1);
    else lua_createtable(L, 0, 0);
    read_range(L, lua_gettop(L), x->shape[d], &ranges[3 * d]);
    lua_pop(L, 1);
  }
}

/* ---- signatures ---- */

typedef struct parameter {
  char name[24], type[3], fallback[16];
  bool optional;
} parameter;

/* Reads one `name:type=default` and steps on; false at the end. */
static bool next_parameter(const char **text, parameter *p) {
  const char *s = *text;
  while (*s == ' ') s++;
  if (!*s) return false;
  size_t word = strcspn(s, " "), colon = strcspn(s, ":"), equals = strcspn(s, "=");
  *p = (parameter){0};
  memcpy(p->name, s, colon);
  size_t type_end = equals < word ? equals : word;
  memcpy(p->type, s + colon + 1, type_end - colon - 1);
  if (equals < word) {
    memcpy(p->fallback, s + equals + 1, word - equals - 1);
    p->optional = true;
  }
  if (p->type[1] == '?') p->optional = true;
  *text = s + word;
  return true;
}

/* A table whose keys are names: options. */
static bool is_options(lua_State *L, int index) {
  if (!lua_istable(L, index)) return false;
  lua_pushnil(L);
  if (!lua_next(L, index)) return false;
  bool named = lua_type(L, -2) == LUA_TSTRING;
  lua_pop(L, 2);
  return named;
}

void lb_no_more(lua_State *L, int most, const char *what) {
  int top = lua_gettop(L);
  while (top > most && lua_isnil(L, top)) top--; /* nil at the end is what is not given */
  if (top <= most) return;
  luaL_checkstack(L, 4, "too many arguments");
  if (!is_options(L, top)) lb_usage(L, "%s: %d arguments too many", what, top - most);
  lua_pushnil(L);
  lua_next(L, top);
  lb_usage(L, "%s: no option \"%s\"", what, lua_tostring(L, -2));
}

typedef struct reader {
  lua_State *L;
  ml_op op;
  int next, top, options; /* stack positions; options 0: none */
  int read_options;
  lb_inputs *inputs;
  ml_attrs *attrs;
  int n_attrs;
} reader;

/* Entries of lists and options are what the tables themselves have: a metamethod could close the tensors that have been
 * read already. */
static int push_option(reader *r, const parameter *p) {
  lua_pushstring(r->L, p->name);
  return lua_rawget(r->L, r->options);
}

/* Pushes the argument for a parameter: by position, else by name; nil when it is absent. */
static int fetch(reader *r, const parameter *p) {
  if (r->next <= r->top && !lua_isnil(r->L, r->next++)) {
    lua_pushvalue(r->L, r->next - 1);
    if (r->options && push_option(r, p) != LUA_TNIL)
      lb_usage(r->L, "%s: %s is given twice", ml_op_name(r->op), p->name);
    if (r->options) lua_pop(r->L, 1);
    return lua_gettop(r->L);
  }
  if (!r->options) lua_pushnil(r->L);
  else if (push_option(r, p) != LUA_TNIL) r->read_options++;
  return lua_gettop(r->L);
}

/* Room for n more. */
static void reserve(reader *r, int n) {
  lb_inputs *in = r->inputs;
  if (in->n + n <= in->room) return;
  int room = in->n + n + LB_FEW_INPUTS;
  ml_tensor **list = lua_newuserdatauv(r->L, (size_t)room * sizeof *list, 0);
  memcpy(list, in->list, (size_t)in->n * sizeof *list);
  in->list = list;
  in->room = room;
}

static void add_input(reader *r, ml_tensor *t) {
  reserve(r, 1);
  r->inputs->list[r->inputs->n++] = t;
}

/* Tensors of a list stay on the stack, numbers among them as tensors of their own. */
static void read_tensors(reader *r, int index) {
  if (!lua_istable(r->L, index)) lb_unexpected(r->L, index, ml_op_name(r->op), "a list of tensors");
  int n = (int)lb_length(r->L, index, ml_op_name(r->op));
  luaL_checkstack(r->L, n + 8, "too many tensors");
  reserve(r, n);
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(r->L, index, i);
    ml_tensor *t = lb_check_operand(r->L, -1, ml_op_name(r->op), "tensors");
    if (!lua_isuserdata(r->L, -1)) {
      *lb_new_tensor(r->L) = ml_tensor_retain(t);
      lua_replace(r->L, -2);
    }
    add_input(r, t);
  }
}

static void read_attribute(reader *r, const parameter *p, int index) {
  lua_State *L = r->L;
  ml_attrs *a = r->attrs;
  bool absent = lua_isnil(L, index);
  char what[64];
  snprintf(what, sizeof what, "%s: %s", ml_op_name(r->op), p->name);
  int at = r->n_attrs++, n;
  int64_t list[ML_MAX_DIMS];
  switch (p->type[0]) {
  case 'f': a->v[at].f = absent ? ml_number_read(p->fallback) : lb_check_number(L, index, what); return;
  case 'i': a->v[at].i = absent ? strtoll(p->fallback, NULL, 10) : lb_check_integer(L, index, what); return;
  case 'b':
    if (!absent && !lua_isboolean(L, index)) lb_unexpected(L, index, what, "true or false");
    a->v[at].i = absent ? strcmp(p->fallback, "true") == 0 : lua_toboolean(L, index);
    return;
  case 'D': {
    ml_dtype dtype = ML_DTYPE_COUNT;
    bool given = !absent || !ml_dtype_find(p->fallback, &dtype);
    a->v[at].i = given ? lb_check_dtype(L, index, what) : dtype;
    return;
  }
  case 'L': read_ranges(L, index, r->inputs->list[0], a, &a->v[at].list); return;
  case 'S':
  case 'X':
    if (absent) return;
    if (p->type[0] == 'S') n = lb_check_shape(L, index, what, list);
    else if (lua_istable(L, index)) n = read_list(L, index, list, ML_MAX_DIMS, what, true);
    else n = 1, list[0] = lb_to_axis(L, index, what);
    memcpy(give_list(L, a, &a->v[at].list, n), list, (size_t)n * sizeof *list);
    return;
  case 'A': {
    int64_t axis = absent ? strtoll(p->fallback, NULL, 10) : 0;
    a->v[at].i = absent ? (axis > 0 ? axis - 1 : axis) : lb_to_axis(L, index, what);
    return;
  }
  default: lb_usage(L, "%s: signature", ml_op_name(r->op));
  }
}

/* Options that no parameter has read. */
static void check_options(reader *r, const char *signature) {
  lua_State *L = r->L;
  lua_pushnil(L);
  while (lua_next(L, r->options)) {
    lua_pop(L, 1);
    const char *key = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "?";
    parameter p;
    bool known = false;
    for (const char *s = signature; !known && next_parameter(&s, &p);) known = strcmp(p.name, key) == 0;
    if (!known) lb_usage(L, "%s: no option \"%s\"", ml_op_name(r->op), key);
  }
}

void lb_read_arguments(lua_State *L, ml_op op, lb_inputs *inputs, ml_attrs *attrs) {
  reader r = {.L = L, .op = op, .next = 1, .top = lua_gettop(L), .inputs = inputs, .attrs = attrs};
  inputs->list = inputs->few;
  inputs->n = 0;
  inputs->room = LB_FEW_INPUTS;
  const char *signature = ml_op_infos[op].signature, *s = signature;
  luaL_checkstack(L, 40, "too many arguments");
  memset(attrs, 0, sizeof *attrs);
  while (r.top > 0 && lua_isnil(L, r.top)) r.top--; /* nil at the end is what is not given */
  if (r.top > 0 && is_options(L, r.top)) r.options = r.top--;
  parameter p;
  while (next_parameter(&s, &p) && p.type[0] != 'R') {
    int index = fetch(&r, &p);
    if (lua_isnil(L, index) && !p.optional) lb_usage(L, "%s: %s is missing", ml_op_name(op), p.name);
    if (p.type[0] != 'T' && p.type[0] != 'W') read_attribute(&r, &p, index);
    else if (p.type[1] == '*') read_tensors(&r, index);
    else add_input(&r, lua_isnil(L, index) ? NULL : lb_check_operand(L, index, ml_op_name(op), p.name));
  }
  if (r.next <= r.top) lb_usage(L, "%s: %d arguments too many", ml_op_name(op), r.top - r.next + 1);
  if (r.options) check_options(&r, signature);
}
