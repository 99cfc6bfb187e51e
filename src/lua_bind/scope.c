/* scope.c: scopes: lists of the tensor handles that were made while a scope was the current one, so that it can close
 * them. What a scope means to a script (results, errors, coroutines) is lua/compile.lua's business. */
#include "lua_bind/lua_bind.h"

#define LB_SCOPE "moonlet.Scope"

typedef struct lb_scope {
  lb_link *first;
} lb_scope;

static const char current_key = 0; /* registry: the current scope's userdata */

static void add(lb_scope *scope, lb_link *link) {
  *link = (lb_link){.scope = scope, .next = scope->first};
  if (scope->first) scope->first->previous = link;
  scope->first = link;
}

void lb_scope_add(lb_host *host, lb_link *link) {
  if (host->scope) add(host->scope, link);
}

void lb_scope_remove(lb_link *link) {
  if (!link->scope) return;
  if (link->previous) link->previous->next = link->next;
  else link->scope->first = link->next;
  if (link->next) link->next->previous = link->previous;
  *link = (lb_link){NULL, NULL, NULL};
}

/* scope_new(): a scope that nothing belongs to yet. */
static int scope_new(lua_State *L) {
  lb_scope *scope = lua_newuserdatauv(L, sizeof *scope, 0);
  scope->first = NULL;
  luaL_setmetatable(L, LB_SCOPE);
  return 1;
}

/* scope_use(scope or nil): new tensors belong to it from here on; returns the one before, or nil. */
static int scope_use(lua_State *L) {
  lua_settop(L, 1);
  lb_scope *scope = lua_isnil(L, 1) ? NULL : lb_check_handle(L, 1, LB_SCOPE);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &current_key);
  lua_pushvalue(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &current_key);
  lb_get_host(L)->scope = scope;
  return 1;
}

/* scope_move(tensor, to [, from]): it belongs to the scope `to` (nil: to none) from here on; with `from`, only if it
 * belonged there. */
static int scope_move(lua_State *L) {
  lb_link *link = lb_check_link(L, 1);
  lb_scope *to = lua_isnoneornil(L, 2) ? NULL : lb_check_handle(L, 2, LB_SCOPE);
  if (!lua_isnoneornil(L, 3) && link->scope != lb_check_handle(L, 3, LB_SCOPE)) return 0;
  lb_scope_remove(link);
  if (to) add(to, link);
  return 0;
}

/* Closes every tensor that belongs to it. */
static int scope_close(lua_State *L) {
  lb_scope *scope = lb_check_handle(L, 1, LB_SCOPE);
  while (scope->first) lb_close_link(L, scope->first);
  return 0;
}

/* A scope that was left suspended for good gives its tensors to the collector. */
static int scope_gc(lua_State *L) {
  lb_scope *scope = lb_check_handle(L, 1, LB_SCOPE);
  while (scope->first) lb_scope_remove(scope->first);
  return 0;
}

int lb_open_scope(lua_State *L) {
  static const luaL_Reg events[] = {{"__close", scope_close}, {"__gc", scope_gc}, {NULL, NULL}};
  luaL_newmetatable(L, LB_SCOPE);
  luaL_setfuncs(L, events, 0);
  lua_pop(L, 1);
  static const luaL_Reg functions[] = {
      {"scope_new", scope_new}, {"scope_use", scope_use}, {"scope_move", scope_move}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
