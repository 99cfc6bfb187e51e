/* scope.c: scopes: lists of the tensor handles that were made while a scope was the current one, so that it can close
 * them. What a scope means to a script (results, errors, coroutines) is lua/compile.lua's business. */
#include "lua_bind/lua_bind.h"

#define LB_SCOPE "moonlet.Scope"

typedef struct lb_scope {
  lb_link *first;
} lb_scope;

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

struct lb_scope *lb_check_scope(lua_State *L, int index) {
  return lb_check_handle(L, index, LB_SCOPE);
}

/* scope_keep(tensor): no scope closes it. */
static int scope_keep(lua_State *L) {
  lb_scope_remove(lb_check_link(L, 1));
  return 0;
}

/* scope_give(tensor, from): if it belongs to the scope `from`, it goes to the current one, or to none where there is
 * none. */
static int scope_give(lua_State *L) {
  lb_link *link = lb_check_link(L, 1);
  if (link->scope != lb_check_scope(L, 2)) return 0;
  lb_scope_remove(link);
  lb_scope_add(lb_get_host(L), link);
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
      {"scope_new", scope_new}, {"scope_keep", scope_keep}, {"scope_give", scope_give}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
