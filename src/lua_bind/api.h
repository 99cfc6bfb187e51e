/* api.h: what the files of the C API share: its calls into the engine's own Lua state.
 *
 * Every call of moonlet.h checks its arguments, then does its work in one C function in protected mode (lb_call), so
 * that an error of Lua's, running out of memory included, becomes a status. */
#ifndef ML_LUA_BIND_API_H
#define ML_LUA_BIND_API_H

#include "lua_bind/lua_bind.h"

/* A userdata of the engine's state, kept in the registry until it is closed. Its user value is the model of Lua. */
struct ml_model {
  ml_engine *engine;
  bool closed; /* by a callback, while a call of ours still holds it */
};

/* Like a model's. Its user value is the session of Lua. It needs no ml_model, which may be gone. */
struct ml_session {
  ml_engine *engine;
  bool closed;
};

/* ---- calls: engine.c ---- */

/* Runs body(L) with `arguments` as its only argument, a light userdata. ML_USAGE while another thread is in the engine,
 * and in a child of the process that made it. */
ml_status lb_call(ml_engine *engine, lua_CFunction body, void *arguments);
/* What the error at the top of the stack says: its code, and pushes its text. */
ml_status lb_push_message(lua_State *L);

/* Reads a structure that a caller of another version made: members that it lacks are 0, those that we lack must be.
 * NULL gives zeros. */
ml_status lb_read_struct(void *ours, size_t size, const void *theirs, const char *what);
/* Checks a result's struct_size, and fills a result as far as the caller knows it. */
ml_status lb_check_struct(const void *theirs, const char *what);
void lb_write_struct(void *theirs, const void *ours, size_t size);

/* ---- fields: engine.c ---- */

/* Set a field of the table at the top of the stack, unless the value is 0, the default of every option. */
void lb_set_integer(lua_State *L, const char *name, int64_t value);
void lb_set_number(lua_State *L, const char *name, double value);
void lb_set_text(lua_State *L, const char *name, const char *value);
void lb_set_flag(lua_State *L, const char *name, bool value);
/* Pushes a list of ids. */
void lb_push_ids(lua_State *L, const int32_t *ids, size_t count);

/* Read a field of the table at the top of the stack; 0 where it is absent. */
int64_t lb_integer_field(lua_State *L, const char *name);
double lb_number_field(lua_State *L, const char *name);
/* "" where it is none; the table keeps the text. */
const char *lb_text_field(lua_State *L, const char *name);
/* Writes at most `capacity` ids of the list at the top of the stack; how many there are. */
size_t lb_read_ids(lua_State *L, int32_t *ids, size_t capacity);

/* ---- models: engine_model.c ---- */

/* Pushes the model of Lua. */
void lb_push_model(lua_State *L, ml_model *model);
/* Pushes a method of it, and the model. */
void lb_push_method(lua_State *L, ml_model *model, const char *name);
/* Raises the error that nil, message, code on the stack, from `first` on, stand for. */
void lb_must(lua_State *L, int first);
/* Pushes the module, the table `ml`. */
void lb_push_module(lua_State *L);

/* ---- what is generated: engine_generate.c ---- */

/* ML_USAGE unless one of the three is there. */
ml_status lb_check_prompt(const ml_prompt *prompt, const char *what, const char *text);
void lb_push_prompt(lua_State *L, const ml_prompt *prompt);
void lb_push_messages(lua_State *L, const ml_message *messages, size_t count);
/* Sets a field of the table at the top to what a JSON text says, unless that is NULL. */
void lb_set_json(lua_State *L, const char *name, const char *text);
/* What options name as the prompt. */
ml_prompt lb_prompt_of(const ml_generate_options *o);
/* Whether the rest of them is sound, of a chat or not. */
ml_status lb_check_options(const ml_generate_options *o, bool chat);
void lb_push_options(lua_State *L, const ml_generate_options *o);

/* The token at the top of the stack, which keeps what it points to together with what is pushed. */
ml_token lb_push_token(lua_State *L);
/* Checks what a call is to fill, and fills it with zeros: so it is left when the call's arguments are wrong. May be
 * NULL. */
ml_status lb_begin_metrics(ml_metrics *out);
/* From the table at the top of the stack. */
void lb_read_metrics(lua_State *L, ml_metrics *m);
/* The finish reason in a field of the table at the top of the stack. */
ml_finish lb_finish_field(lua_State *L);

/* A call that generates one text. */
typedef struct lb_generation {
  ml_model *model;     /* of ml_generate */
  ml_session *session; /* of the others */
  const char *text;    /* what a user says in it */
  ml_generate_options options;
  ml_token_callback callback;
  void *context;
  ml_metrics metrics;
} lb_generation;

/* Takes the tokens of the iterator at the top of the stack to the callback, and the metrics. */
void lb_generate(lua_State *L, lb_generation *g);
/* Checks the arguments of such a call, runs the body and hands out metrics. `g` has model or session. */
ml_status lb_call_generation(lb_generation *g, lua_CFunction body, const ml_generate_options *options, ml_metrics *out);

#endif
