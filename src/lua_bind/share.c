/* share.c: weights that engines of one process read together (tensor/share.h). */
#include "tensor/share.h"
#include "lua_bind/lua_bind.h"

/* share(about, names, tensors) -> token: two lists of equal length. */
static int share(lua_State *L) {
  const char *about = lb_check_text(L, 1, "share: about", NULL);
  const lua_Integer n = lb_length(L, 2, "share: names");
  lb_check_table(L, 3, "share: tensors");
  const char **names = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *names, 0);
  ml_tensor **tensors = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *tensors, 0);
  luaL_checkstack(L, (int)(2 * n) + LUA_MINSTACK, "names and tensors");
  for (lua_Integer i = 0; i < n; i++) { /* they stay on the stack */
    lua_geti(L, 2, i + 1);
    names[i] = lb_check_text(L, -1, "share: a name", NULL);
    lua_geti(L, 3, i + 1);
    tensors[i] = lb_check_tensor(L, -1, "share: a tensor");
  }
  lb_eval(L, tensors, (size_t)n);
  char token[ML_TOKEN_BYTES];
  lb_check(L, ml_share_publish(about, tensors, names, (size_t)n, token));
  lua_pushstring(L, token);
  return 1;
}

/* unshare(token) */
static int unshare(lua_State *L) {
  ml_share_withdraw(lb_check_text(L, 1, "unshare: token", NULL));
  return 0;
}

/* shared_about(token) -> what was said about them | nil, message, code */
static int shared_about(lua_State *L) {
  char *text;
  const ml_status status = ml_share_about(lb_check_text(L, 1, "share: token", NULL), &text);
  if (status != ML_OK) return lb_fail(L, status);
  lua_pushstring(L, text); /* where this finds no memory, the text stays */
  ml_free(text);
  return 1;
}

/* take_shared(token, name) -> tensor of the default device | nil, message, code */
static int take_shared(lua_State *L) {
  const char *token = lb_check_text(L, 1, "share: token", NULL), *name = lb_check_text(L, 2, "share: name", NULL);
  ml_tensor **out = lb_new_tensor(L);
  const ml_status status = ml_share_take(lb_engine(L)->device, token, name, out);
  return status == ML_OK ? 1 : lb_fail(L, status);
}

int lb_open_share(lua_State *L) {
  static const luaL_Reg functions[] = {{"share", share},
                                       {"unshare", unshare},
                                       {"shared_about", shared_about},
                                       {"take_shared", take_shared},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
