/* moonlet.h: the public C interface of moonlet.
 *
 * Contract. Everything belongs to an engine; several engines may live in one process and do not see each other. An
 * engine is used by one thread at a time, save for ml_cancel, which any thread may call. Every call that can fail
 * returns an ml_status; on failure the calling thread's error record (ml_error_message) says what happened, and
 * nothing of what the call was to create is left behind. Handles are released with their close function, which accepts
 * NULL. The library never prints, exits, aborts or installs a signal handler. */
#ifndef MOONLET_H
#define MOONLET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ML_VERSION "0.1.0"

#if defined(__GNUC__)
#define ML_API __attribute__((visibility("default")))
#else
#define ML_API
#endif

struct lua_State;

/* What a call came to. Names as scripts see them: ml_status_name. */
typedef enum ml_status {
  ML_OK = 0,
  ML_NOT_FOUND,   /* a path, tensor, key or token that is not there */
  ML_CORRUPT,     /* a file or value that breaks its own format */
  ML_UNSUPPORTED, /* well formed, but not something this build can do */
  ML_MISMATCH,    /* shapes, dtypes, models or files that do not fit each other */
  ML_USAGE,       /* a call with wrong arguments */
  ML_MEMORY,      /* the system refused memory */
  ML_CANCELLED,   /* a cancel flag was raised */
  ML_DEADLINE,    /* a deadline passed */
  ML_DEVICE,      /* a device failed or is absent */
  ML_IO,          /* the system refused a read or a write */
  ML_LIMIT,       /* a limit of ours was hit: memory limit, context length, template steps */
  ML_STATUS_COUNT
} ml_status;

/* The name of a status as scripts see it: "not_found", "corrupt", ... Never NULL. */
ML_API const char *ml_status_name(ml_status status);

/* The text of the calling thread's last failure; "" when there was none. Valid until the next failure on this thread. */
ML_API const char *ml_error_message(void);

typedef struct ml_engine ml_engine;

/* ---- for hosts that bring their own interpreter ---- */

/* Opens the module in a Lua 5.4 state: luaL_requiref(L, "moonlet", luaopen_moonlet, 0). */
ML_API int luaopen_moonlet(struct lua_State *L);
/* The engine of a state that has loaded moonlet; it lives as long as the state. Raises a Lua error when there is none. */
ML_API ml_engine *ml_lua_engine(struct lua_State *L);

/* ---- cancellation ---- */

/* Raises the cancel flag: what runs in the engine ends soon with ML_CANCELLED. May be called from any thread and from
 * a signal handler. */
ML_API void ml_cancel(ml_engine *engine);
/* Takes the flag down; true when it was up. */
ML_API bool ml_cancel_clear(ml_engine *engine);

#ifdef __cplusplus
}
#endif
#endif
