/* engine_batch.c: the C API's batches: requests to Lua, tokens and rows to the callbacks, rows kept for the host. */
#include "lua_bind/api.h"

#include <string.h>

/* ---- rows ---- */

typedef struct batch_row {
  ml_batch_row shown; /* what it points to is the row's own, but "" */
  ml_metrics metrics;
  bool ended;
} batch_row;

/* What a host holds: its rows are reached by pointers, so that they may grow. */
typedef struct batch {
  ml_batch shown;
  batch_row *rows;             /* (n_rows) */
  const ml_batch_row **places; /* (n_rows) */
} batch;

static void free_batch(batch *b) {
  if (!b) return;
  for (size_t i = 0; b->rows && i < b->shown.n_rows; i++) {
    ml_batch_row *row = &b->rows[i].shown;
    if (*row->message) ml_free((char *)row->message);
    ml_free((char *)row->text);
    ml_free((int32_t *)row->ids);
    ml_free((double *)row->logprobs);
    ml_free((ml_logprob *)row->top_logprobs);
  }
  ml_free(b->rows);
  ml_free(b->places);
  ml_free(b);
}

void ml_batch_close(ml_batch *shown) { free_batch((batch *)shown); }

static batch *new_batch(size_t n_rows) {
  batch *b = ml_calloc(1, sizeof *b);
  if (!b) return NULL;
  b->shown.n_rows = n_rows;
  b->rows = ml_calloc(n_rows ? n_rows : 1, sizeof *b->rows);
  b->places = ml_calloc(n_rows ? n_rows : 1, sizeof *b->places);
  for (size_t i = 0; b->rows && i < n_rows; i++) b->rows[i].shown.message = "";
  if (!b->rows || !b->places) {
    free_batch(b);
    return NULL;
  }
  for (size_t i = 0; i < n_rows; i++) {
    b->rows[i].shown.index = i;
    b->rows[i].shown.metrics = &b->rows[i].metrics;
    b->rows[i].metrics.struct_size = sizeof(ml_metrics);
    b->places[i] = &b->rows[i].shown;
  }
  b->shown.rows = b->places;
  return b;
}

/* ---- from a result of Lua ---- */

static void *owned(lua_State *L, void *block) {
  if (!block) lb_raise(L, ML_MEMORY);
  return block;
}

static void keep_text(lua_State *L, ml_batch_row *row) {
  size_t size;
  if (lua_getfield(L, -1, "text") == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -1, &size);
    char *copy = owned(L, ml_alloc(size + 1));
    row->text = memcpy(copy, text, size + 1);
    row->text_bytes = size;
  }
  lua_pop(L, 1);
}

static void keep_ids(lua_State *L, ml_batch_row *row) {
  if (lua_getfield(L, -1, "ids") == LUA_TTABLE) {
    size_t n = (size_t)luaL_len(L, -1);
    int32_t *ids = owned(L, ml_calloc(n ? n : 1, sizeof *ids));
    row->ids = ids;
    row->n_ids = lb_read_ids(L, ids, n);
  }
  lua_pop(L, 1);
}

/* Of the entry {id, logprob, top_logprobs} at the top; all entries of a row have equally many of the likeliest. */
static void keep_top(lua_State *L, ml_batch_row *row, size_t at) {
  size_t n = lua_getfield(L, -1, "top_logprobs") == LUA_TTABLE ? (size_t)luaL_len(L, -1) : 0;
  if (at == 0) {
    row->n_top_logprobs = n;
    row->top_logprobs = n ? owned(L, ml_calloc(row->n_ids, n * sizeof(ml_logprob))) : NULL;
  }
  for (size_t i = 0; i < row->n_top_logprobs; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    ((ml_logprob *)row->top_logprobs)[at * row->n_top_logprobs + i] =
        (ml_logprob){(int32_t)lb_integer_field(L, "id"), lb_number_field(L, "logprob")};
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void keep_logprobs(lua_State *L, ml_batch_row *row) {
  if (lua_getfield(L, -1, "logprobs") == LUA_TTABLE) {
    double *logprobs = owned(L, ml_calloc(row->n_ids ? row->n_ids : 1, sizeof *logprobs));
    row->logprobs = logprobs;
    for (size_t i = 0; i < row->n_ids; i++) {
      lua_rawgeti(L, -1, (lua_Integer)i + 1);
      logprobs[i] = lb_number_field(L, "logprob");
      keep_top(L, row, i);
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
}

static void keep_error(lua_State *L, ml_batch_row *row) {
  if (lua_getfield(L, -1, "error") != LUA_TNIL) {
    row->status = lb_push_message(L);
    row->message = owned(L, ml_strdup(lua_tostring(L, -1)));
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* From the result at the top of the stack. */
static void keep_row(lua_State *L, batch_row *row) {
  row->ended = true;
  keep_error(L, &row->shown);
  keep_text(L, &row->shown);
  keep_ids(L, &row->shown);
  keep_logprobs(L, &row->shown);
  lua_getfield(L, -1, "metrics");
  lb_read_metrics(L, &row->metrics);
  lua_pop(L, 1);
  row->metrics.finish_reason = lb_finish_field(L); /* of a row that failed before it began, too */
}

/* ---- the call ---- */

typedef struct batch_call {
  ml_model *model;
  const char *requests; /* n of them, `stride` bytes apart */
  size_t n, stride;
  size_t building; /* which of them is on its way to Lua; n: none */
  int64_t began_ns;
  ml_batch_options options;
  batch *batch; /* the result */
  ml_metrics metrics;
} batch_call;

/* on_token(position, token), with the call as upvalue: false ends the row */
static int on_token(lua_State *L) {
  const batch_call *c = lua_touserdata(L, lua_upvalueindex(1));
  size_t index = (size_t)lua_tointeger(L, 1) - 1;
  lua_settop(L, 2);
  ml_token token = lb_push_token(L);
  lua_pushboolean(L, c->options.on_token(c->options.context, index, &token));
  return 1;
}

/* Pushes {prompt = , options}. */
static void push_request(lua_State *L, const void *request) {
  ml_generate_options o;
  lb_check(L, lb_read_struct(&o, sizeof o, request, "ml_generate_options"));
  ml_prompt prompt = lb_prompt_of(&o);
  lb_check(L, lb_check_prompt(&prompt, "ml_generate_options", "prompt"));
  lb_check(L, lb_check_options(&o, prompt.messages));
  lb_push_options(L, &o);
  lb_push_prompt(L, &prompt);
  lua_setfield(L, -2, "prompt");
}

static void push_requests(lua_State *L, batch_call *c) {
  lua_createtable(L, c->n < 1024 ? (int)c->n : 1024, 0);
  for (c->building = 0; c->building < c->n; c->building++) {
    push_request(L, c->requests + c->building * c->stride);
    lua_rawseti(L, -2, (lua_Integer)c->building + 1);
  }
}

static void push_batch_options(lua_State *L, batch_call *c) {
  lua_createtable(L, 0, 3);
  lb_set_integer(L, "slots", c->options.slots);
  lb_set_flag(L, "iterate", true);
  if (!c->options.on_token) return;
  lua_pushlightuserdata(L, c);
  lua_pushcclosure(L, on_token, 1);
  lua_setfield(L, -2, "on_token");
}

static void close_batch(lua_State *L, int at) {
  lua_getfield(L, at, "close");
  lua_pushvalue(L, at);
  lua_call(L, 1, 0);
}

/* What rows came to that had not ended when all were cancelled. */
static void keep_cancelled(lua_State *L, int at, batch *b) {
  lua_getfield(L, at, "results");
  for (size_t i = 0; i < b->shown.n_rows; i++) {
    if (b->rows[i].ended) continue;
    if (lua_rawgeti(L, -1, (lua_Integer)i + 1) == LUA_TTABLE) keep_row(L, &b->rows[i]);
    else b->rows[i].metrics.finish_reason = ML_FINISH_CANCELLED;
    lua_pop(L, 1);
  }
}

/* Takes rows as they end; LUA_OK, or the outcome of the call whose error lies on the stack. */
static int take_rows(lua_State *L, int at, batch_call *c) {
  const ml_batch_options *o = &c->options;
  for (;;) {
    lua_settop(L, at);
    lua_pushvalue(L, at);
    int outcome = lua_pcall(L, 0, 2, 0);
    if (outcome != LUA_OK || lua_isnil(L, -1)) return outcome;
    batch_row *row = &c->batch->rows[lua_tointeger(L, -2) - 1];
    keep_row(L, row);
    if (!o->on_row || o->on_row(o->context, &row->shown)) continue;
    c->metrics.finish_reason = ML_FINISH_CANCELLED;
    close_batch(L, at); /* the next call says whether the model was closed besides */
  }
}

/* ---- metrics of all ---- */

static void sum_up(batch_call *c, const ml_memory *memory) {
  ml_metrics *m = &c->metrics;
  for (size_t i = 0; i < c->n; i++) {
    const ml_metrics *row = &c->batch->rows[i].metrics;
    m->prompt_tokens += row->prompt_tokens;
    m->cached_tokens += row->cached_tokens;
    m->generated_tokens += row->generated_tokens;
  }
  m->peak_bytes = memory->peak, m->active_bytes = memory->active;
  m->total_seconds = (double)(ml_now_ns() - c->began_ns) * 1e-9;
  if (m->total_seconds > 0) m->decode_tokens_per_second = (double)m->generated_tokens / m->total_seconds;
}

/* ---- ml_batch_generate ---- */

static int generate_batch(lua_State *L) {
  enum { BATCH = 3 };
  batch_call *c = lua_touserdata(L, 1);
  ml_engine *engine = c->model->engine;
  lua_rawgetp(L, LUA_REGISTRYINDEX, c->model); /* keeps the handle, should a callback close it */
  lb_push_method(L, c->model, "batch_generate");
  push_requests(L, c);
  push_batch_options(L, c);
  lua_call(L, 3, 1);
  c->metrics.finish_reason = ML_FINISH_STOP;
  bool failed = take_rows(L, BATCH, c) != LUA_OK;
  if (failed) {
    c->metrics.finish_reason = lb_push_message(L) == ML_CANCELLED ? ML_FINISH_CANCELLED : ML_FINISH_ERROR;
    lua_pop(L, 1);
  }
  if (c->metrics.finish_reason == ML_FINISH_CANCELLED) keep_cancelled(L, BATCH, c->batch);
  sum_up(c, &engine->device->memory);
  return c->metrics.finish_reason == ML_FINISH_ERROR ? lua_error(L) : 0;
}

static ml_status check_requests(batch_call *c) {
  if (c->n == 0) return ML_OK;
  ML_TRY(lb_check_struct(c->requests, "ml_generate_options"));
  memcpy(&c->stride, c->requests, sizeof c->stride);
  for (size_t i = 1; i < c->n; i++) {
    size_t size;
    memcpy(&size, c->requests + i * c->stride, sizeof size);
    if (size == c->stride) continue;
    return ml_fail(ML_USAGE, "requests[%zu]: struct_size: expected %zu, as of requests[0], found %zu", i, c->stride,
                   size);
  }
  return ML_OK;
}

/* Before the first row was begun. */
static ml_status end_cancelled(batch_call *c) {
  for (size_t i = 0; i < c->n; i++) c->batch->rows[i].metrics.finish_reason = ML_FINISH_CANCELLED;
  c->metrics.finish_reason = ML_FINISH_CANCELLED;
  ml_error_clear();
  return ML_OK;
}

ml_status ml_batch_generate(ml_model *model, const ml_generate_options *requests, size_t n_requests,
                            const ml_batch_options *options, ml_batch **out, ml_metrics *metrics) {
  if (out) *out = NULL;
  if (!model || (!requests && n_requests))
    return ml_fail(ML_USAGE, "ml_batch_generate: %s is NULL", model ? "requests" : "model");
  ML_TRY(lb_begin_metrics(metrics));
  batch_call c = {.model = model, .requests = (const char *)requests, .n = n_requests, .began_ns = ml_now_ns()};
  ML_TRY(lb_read_struct(&c.options, sizeof c.options, options, "ml_batch_options"));
  ML_TRY(check_requests(&c));
  c.building = c.n;
  if (!(c.batch = new_batch(c.n))) return ML_MEMORY;
  ml_status status = lb_call(model->engine, generate_batch, &c);
  if (status == ML_CANCELLED) status = end_cancelled(&c);
  if (c.building < c.n) status = ml_fail_prefix(status, "requests[%zu]", c.building);
  if (metrics) lb_write_struct(metrics, &c.metrics, sizeof c.metrics);
  if (status == ML_OK && out) *out = &c.batch->shown;
  else free_batch(c.batch);
  return status;
}
