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

/* Runs body(L) with `arguments` as its only argument, a light userdata. ML_USAGE while another thread is in the engine,
 * and in a child of the process that made it. */
ml_status lb_call(ml_engine *engine, lua_CFunction body, void *arguments);
/* Pushes the model of Lua. */
void lb_push_model(lua_State *L, ml_model *model);

/* Reads a structure that a caller of another version made: members that it lacks are 0, those that we lack must be.
 * NULL gives zeros. */
ml_status lb_read_struct(void *ours, size_t size, const void *theirs, const char *what);
/* Checks a result's struct_size, and fills a result as far as the caller knows it. */
ml_status lb_check_struct(const void *theirs, const char *what);
void lb_write_struct(void *theirs, const void *ours, size_t size);

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

#endif
