/* ops.c: one Lua function for each row of ops.def, and the operators of tensors. */
#include "lua_bind/lua_bind.h"

/* Upvalue 1: the op. */
static int call_op(lua_State *L) {
  ml_op op = (ml_op)lua_tointeger(L, lua_upvalueindex(1));
  lb_inputs in;
  ml_attrs attrs;
  lb_drop_closed(L);
  lb_read_arguments(L, op, &in, &attrs);
  int n_results = ml_op_infos[op].n_results > 0 ? ml_op_infos[op].n_results : 1;
  ml_tensor **handles[ML_MAX_RESULTS], *results[ML_MAX_RESULTS];
  for (int i = 0; i < n_results; i++) handles[i] = lb_new_tensor(L);
  lb_check(L, ml_apply(lb_host_of(L)->engine, op, in.list, in.n, &attrs, results));
  for (int i = 0; i < n_results; i++) *handles[i] = results[i];
  return n_results;
}

/* Operators get their operand twice where they have one. */
static int call_operator(lua_State *L) {
  ml_op op = (ml_op)lua_tointeger(L, lua_upvalueindex(1));
  bool unary = ml_op_infos[op].kind == ML_KIND_UNARY;
  lb_drop_closed(L);
  ml_tensor *inputs[2] = {lb_check_operand(L, 1, ml_op_name(op), "a"),
                          unary ? NULL : lb_check_operand(L, 2, ml_op_name(op), "b")};
  ml_attrs attrs = {0};
  ml_tensor **out = lb_new_tensor(L);
  lb_check(L, ml_apply(lb_host_of(L)->engine, op, inputs, unary ? 1 : 2, &attrs, out));
  return 1;
}

static void push_closure(lua_State *L, ml_op op, lua_CFunction function) {
  lua_pushinteger(L, op);
  lua_pushcclosure(L, function, 1);
}

int lb_open_ops(lua_State *L) {
  lua_createtable(L, 0, ML_OP_COUNT);
  for (int op = 0; op < ML_OP_COUNT; op++) {
    if (ml_op_infos[op].kind == ML_KIND_LEAF || op == ML_OP_result) continue;
    push_closure(L, (ml_op)op, call_op);
    lua_setfield(L, -2, ml_op_name((ml_op)op));
  }
  return 1;
}

/* op_list(): {name, signature, doc, kind} of each row, in order: for the reference and for in-place forms. */
int lb_op_list(lua_State *L) {
  static const char *const kinds[] = {"leaf",   "unary",  "binary", "ternary", "view",
                                      "kernel", "result", "effect", "effect"};
  lua_Integer n = 0;
  lua_createtable(L, ML_OP_COUNT, 0);
  for (int op = 0; op < ML_OP_COUNT; op++) {
    const ml_op_info *info = &ml_op_infos[op];
    const char *const fields[][2] = {
        {"name", info->name}, {"signature", info->signature}, {"doc", info->doc}, {"kind", kinds[info->kind]}};
    if (info->kind == ML_KIND_LEAF || op == ML_OP_result) continue;
    lua_createtable(L, 0, 4);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
      lua_pushstring(L, fields[i][1]);
      lua_setfield(L, -2, fields[i][0]);
    }
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

/* Sets the arithmetic metamethods of the metatable at the top. */
void lb_set_operators(lua_State *L) {
  static const struct {
    const char *event;
    ml_op op;
  } operators[] = {{"__add", ML_OP_add},       {"__sub", ML_OP_sub}, {"__mul", ML_OP_mul}, {"__div", ML_OP_div},
                   {"__idiv", ML_OP_floordiv}, {"__mod", ML_OP_mod}, {"__pow", ML_OP_pow}, {"__unm", ML_OP_neg}};
  for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
    push_closure(L, operators[i].op, call_operator);
    lua_setfield(L, -2, operators[i].event);
  }
}
