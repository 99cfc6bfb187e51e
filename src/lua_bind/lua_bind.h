/* lua_bind.h: what the files of the Lua floor share.
 *
 * Rules. A handle (userdata with a metatable) is pushed before the resource that it will own exists, so that an error
 * at any line leaves nothing half-owned. __gc, __close and close are one idempotent function. Only this floor raises.
 * Positions written in Lua are 1-based and are converted in args.c alone. */
#ifndef ML_LUA_BIND_H
#define ML_LUA_BIND_H

#include "tensor/plan/plan.h"

#include <lauxlib.h>
#include <lua.h>

/* A number that was an operand lately; owned, in no count of tensors. */
enum { LB_CONSTANTS = 16 };
typedef struct lb_constant {
  ml_tensor *tensor; /* or NULL */
  uint64_t used;     /* when, counted in uses */
} lb_constant;

typedef struct lb_ambient lb_ambient;
enum { LB_DEVICES = 16 };

/* One engine of one Lua state. Every handle holds it, so that it outlives them whatever the order of finalisers. */
typedef struct lb_host {
  ml_engine *engine;
  int references;
  size_t seen_bytes[LB_DEVICES]; /* of each device's memory when the collector was last told; the last is all others' */
  size_t most_kept;  /* bytes of values that handles hold, from which on it is asked whether scripts still have those */
  bool lent;         /* the collector has been lent memory, for as long as a plan is recorded (plan.c) */
  lua_State *own;    /* the state that belongs to a C host's engine, or NULL */
  ml_device *device; /* the default one where no call under way has its own (ambient.c) */
  struct lb_scope *scope; /* that new tensors belong to, or NULL; kept alive by who set it */
  lb_ambient **ambients;  /* what coroutines have set, those of active ones in the order that they resumed each other */
  size_t n_ambients, ambients_capacity;
  lua_Integer ambient_ids; /* so far */
  lb_constant constants[LB_CONSTANTS];
  uint64_t constant_uses; /* so far */
  ml_tensor **closed;     /* by finalizers, which run while their operands may be in use; owned */
  size_t n_closed, closed_capacity;
} lb_host;

/* A tensor handle's place in the list of the scope that will close it. `scope` NULL: none will. */
typedef struct lb_link {
  struct lb_scope *scope;
  struct lb_link *next, *previous;
} lb_link;

/* state.c: the engine of a state, errors, the collector */
lb_host *lb_get_host(lua_State *L); /* what it says of the default device, scope and module path is that of who runs */
lb_host *lb_host_of(lua_State *L);  /* what it says of those may be somebody else's */
static inline ml_engine *lb_engine(lua_State *L) { return lb_get_host(L)->engine; }
lb_host *lb_host_retain(lb_host *host);
void lb_host_release(lb_host *host);
/* Gives a state that has no engine the one that `given` holds, which becomes the state's (*given is NULL from then on),
 * or a new one where `given` is NULL. */
void lb_open_host(lua_State *L, ml_engine **given);
/* Raises an error object {message, code} at the line of the user's own code. */
_Noreturn void lb_raise(lua_State *L, ml_status status);
_Noreturn void lb_usage(lua_State *L, const char *format, ...) ML_PRINTF(2, 3);
static inline void lb_check(lua_State *L, ml_status status) {
  if (status != ML_OK) lb_raise(L, status);
}
/* Pushes nil, message, code; returns 3. */
int lb_fail(lua_State *L, ml_status status);
/* Tells the collector about device memory that came into being since it was last told. */
void lb_charge(lua_State *L);
/* Whether a call that ended so is worth a second try: it found no memory, and everything has been collected since. The
 * caller has retained what it borrowed. */
bool lb_made_room(lua_State *L, ml_status status);
/* Evaluates, once more after a full collection where memory ran out. */
void lb_eval(lua_State *L, ml_tensor *const *tensors, size_t count);
int lb_open_errors(lua_State *L); /* pushes the error class: error.new */

/* tensor.c */
#define LB_TENSOR "moonlet.Tensor"
/* Pushes an empty handle; the caller stores a tensor that it owns in the result. */
ml_tensor **lb_new_tensor(lua_State *L);
/* The handle at `index` is none of a recorded function's own: that may not change it in place. */
void lb_set_given(lua_State *L, int index);
ml_tensor *lb_to_tensor(lua_State *L, int index);                      /* NULL when it is none */
ml_tensor *lb_check_tensor(lua_State *L, int index, const char *what); /* raises on closed ones */
/* A borrowed tensor: that of a handle, or of a number or boolean a constant, which lives until LB_CONSTANTS others were
 * asked for later. */
ml_tensor *lb_check_operand(lua_State *L, int index, const char *function, const char *argument);
/* Frees what finalizers closed: at the beginning of a call, before it borrows tensors. */
void lb_drop_closed(lua_State *L);
/* Gives up a reference to a tensor that the caller's own caller may still use: the last one goes at the next call. */
void lb_give_back(lua_State *L, ml_tensor *t);
/* Frees the tensors of a host that ends. */
void lb_drop_owned(lb_host *host);
int lb_open_tensor(lua_State *L); /* pushes the functions of `ml` and the table of methods */
int lb_rebind(lua_State *L);      /* rebind(handle, tensor): the handle's variable holds another value from here on */
int lb_changes(lua_State *L);
int lb_is_tensor(lua_State *L);      /* is_tensor(x): of `ml` */
void lb_set_operators(lua_State *L); /* ops.c: arithmetic events of the metatable at the top */

/* ambient.c */
void lb_ambient_look(lua_State *L, lb_host *host); /* what holds for who runs now */
void lb_push_threads(lua_State *L);                /* state.c: coroutines that have set something, by id, weakly */
void lb_drop_ambients(lb_host *host);
int lb_open_ambient(lua_State *L);

/* device.c: the device that an argument names, the default one where it is not given; it is the last argument */
ml_device *lb_check_device(lua_State *L, int index, const char *function);

/* make.c: functions of `ml` */
int lb_from_bytes(lua_State *L);

/* scope.c: which handles a scope closes (ml.scope) */
void lb_scope_add(lb_host *host, lb_link *link); /* to the current scope, if there is one */
void lb_scope_remove(lb_link *link);
struct lb_scope *lb_check_scope(lua_State *L, int index);
void lb_close_link(lua_State *L, lb_link *link); /* tensor.c: closes the handle that the link is part of */
lb_link *lb_check_link(lua_State *L, int index); /* tensor.c: of a tensor, closed or not */

/* args.c: the only place that turns positions of Lua into positions of C, and options into arguments. `what` names the
 * argument in messages: "function: argument", or the function alone where it has one. */
int64_t lb_to_axis(lua_State *L, int index, const char *what); /* 1-based, negative from the end -> 0-based, negative */
ml_dtype lb_check_dtype(lua_State *L, int index, const char *what);
int lb_check_shape(lua_State *L, int index, const char *what, int64_t *shape);      /* a list, or one number */
int64_t lb_check_integer(lua_State *L, int index, const char *what);                /* floats of integer value too */
const char *lb_check_text(lua_State *L, int index, const char *what, size_t *size); /* size may be NULL */
const char *lb_check_path(lua_State *L, int index, const char *what);               /* text without zero bytes */
double lb_check_number(lua_State *L, int index, const char *what);
void lb_check_table(lua_State *L, int index, const char *what);
void *lb_check_handle(lua_State *L, int index, const char *class);
lua_Integer lb_length(lua_State *L, int index, const char *what); /* of a list */
/* Raises "what: expected .., found ..". */
_Noreturn void lb_unexpected(lua_State *L, int index, const char *what, const char *expected);
/* Raises on arguments behind the first `most`. */
void lb_no_more(lua_State *L, int most, const char *what);
/* Tensors that an operation is given, borrowed: they stay on the stack, and the list too where it is long. */
enum { LB_FEW_INPUTS = 16 };
typedef struct lb_inputs {
  ml_tensor **list, *few[LB_FEW_INPUTS];
  int n, room;
} lb_inputs;
/* Reads tensors and attributes by an op's signature from the stack: positions, then options by name in a last table. */
void lb_read_arguments(lua_State *L, ml_op op, lb_inputs *inputs, ml_attrs *attrs);

/* Each pushes a table of functions. */
int lb_open_ops(lua_State *L);
int lb_op_list(lua_State *L);
int lb_open_files(lua_State *L);
int lb_open_text(lua_State *L);
int lb_open_weights(lua_State *L);
int lb_open_share(lua_State *L);
int lb_open_plan(lua_State *L);
int lb_open_device(lua_State *L);
int lb_open_json(lua_State *L);
int lb_open_scope(lua_State *L);
int lb_open_values(lua_State *L);
int lb_open_make(lua_State *L);
/* A variable of the environment; an empty one counts as unset, NULL. */
/* An engine with the devices that the environment asks for (MOONLET_ISA unless `isa` is given, MOONLET_DEVICE,
 * MOONLET_DEVICE_LIBRARY). */
ml_status lb_open_engine(int threads, const char *isa, ml_engine **out);
const char *lb_environment(const char *name);
/* Sets a function of the table at the top. */
void lb_set(lua_State *L, const char *name, lua_CFunction function);
/* Sets a function that begins something in the table at the top, and whose upvalue 1 ends it where it is closed: that
 * it returns, the same always. */
void lb_set_guard(lua_State *L, const char *name, lua_CFunction begin, lua_CFunction end);

#endif
