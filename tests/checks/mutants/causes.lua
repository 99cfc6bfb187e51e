-- causes.lua: what once gave wrong values in silence, put back, and kernels that are wrong on one instruction set.
--
-- A cause is {name, edits, by, isa}: each edit replaces a text of a file, which must be there once (white space counts
-- as one blank), so that a cause whose code has moved says so. `by` is the test that finds it, where the programs of
-- tests/lua/programs/ do not: they are too small for depth, and compare values, which repeated work leaves as they are.
-- With `isa` the file is compiled for that instruction set, and results are compared with the reference kernels'. What
-- is `on` the twin is run there, built anew where the twin itself is changed.
return {
  {name = "packed weights read as rows by any operation", edits = {
    {"src/tensor/graph.c", "if (type != 'W') return ml_weight", "if (type == 'X') return ml_weight"},
  }},
  {name = "a packed weight in a place for rows: its layout is in no key and no check", edits = {
    {"src/tensor/tensor.c", "(*out)->layout = like->layout;", ""},
    {"src/tensor/plan/plan.c", "t->dtype == want->dtype && t->layout == want->layout &&", "t->dtype == want->dtype &&"},
  }},
  {name = "what a pass makes takes along what belongs to the node that it is like", edits = {
    {"src/tensor/plan/select.c", "n.tensor = NULL;", ""},
    {"src/tensor/plan/select.c", "n.keep = false;", ""},
  }},
  {name = "rows are selected of what has one for all", edits = {
    {"src/tensor/plan/select.c", "? ml_vnode_rows(&g->nodes[n->inputs[k]]) != 1 : k == 0", "? true : k == 0"},
  }},
  {name = "a selection moves past an effect, and reads what it wrote", edits = {
    {"src/tensor/plan/select.c", "|| ml_vgraph_is_late(g, v, until, NULL, 0)", ""},
    {"src/tensor/plan/emit.c", "if (user < 0 || g->nodes[g->nodes[user].group].value < 0) return true;",
      "if (user < 0) return true;"},
  }},
  {name = "a selection moves past an effect, for which it costs a copy", by = "tests/lua/test_plan_texts.lua", edits = {
    {"src/tensor/plan/select.c", "|| ml_vgraph_is_late(g, v, until, NULL, 0)", ""},
  }},
  {name = "readers in a plan see what is written later", edits = {
    {"src/tensor/plan/emit.c", "ML_TRY(save_readers(m, version, turn, buffer));", ""},
  }},
  {name = "readers after an evaluation see what it wrote", edits = {
    {"src/tensor/plan/keep.c", "if (!k->stays[i] || n->writer < 0) return ML_OK;", "return ML_OK;"},
  }},
  {name = "readers see what a compiled function writes afterwards", edits = {
    {"src/tensor/plan/plan.c", "if (p->cells[i].written) ML_TRY(ml_cell_detach(p->cells[i].cell));", ""},
  }},
  {name = "what a compiled function captures is computed with each call", edits = {
    {"src/tensor/plan/evaluate.c", "if (!is_captured(e, t)) return ML_OK;",
      "if (!is_captured(e, t) || e) return ML_OK;"},
  }},
  {name = "what a state holds is a constant of a plan", edits = {
    {"src/tensor/plan/fold.c", "return n->version < 0;", "return true;"},
    {"src/tensor/plan/evaluate.c", "e->recording && r.n_outputs", "false"},
  }},
  {name = "effects are forgotten where memory runs out", edits = {
    {"src/tensor/plan/evaluate.c",
      "if (!r->n_effects || (status != ML_OK && !began))",
      "if (!r->n_effects)"},
  }},
  {name = "a state that is an argument is read where it is written", edits = {
    {"src/lua_bind/plan.c", "if (t->layout == ML_LAYOUT_BLOCKS || t->state) return 0;",
      "if (t->layout == ML_LAYOUT_BLOCKS) return 0;"},
    {"src/tensor/plan/plan.c", "&& !writes_over(p, t)", ""},
  }},
  {name = "what a compiled function is given is a constant of its plan", edits = {
    {"lua/trace.lua", "traced[i] = build[i](inputs)", "traced[i] = build[i](tensors)"},
  }},
  {name = "depth costs stack", by = "tests/lua/test_plans.lua", edits = {
    {"src/tensor/plan/collect.c", "s->stack[s->depth++] = t;", ""},
    {"src/tensor/plan/collect.c", "s->list[s->count++] = (item){t->node ? t->node->serial : 0, t};",
      [[s->list[s->count++] = (item){t->node ? t->node->serial : 0, t};
        volatile char frame[512];
        for (int k = 0; t->node && k < t->node->n_inputs; k++) ML_TRY(push(s, t->node->inputs[k]));
        frame[0] = 0;]]},
  }},
  {name = "a compiled function draws the same numbers in every replay", edits = {
    {"lua/compile.lua", "tensors[#tensors + 1] = trace.advance(entry.draws, entry.draws_on)",
      "entry.first = entry.first or M.keep(trace.advance(entry.draws)) tensors[#tensors + 1] = entry.first"},
  }},
  {name = "what somebody holds is computed anew each time", by = "tests/lua/test_state.lua", edits = {
    {"src/tensor/plan/keep.c", "n->keep = k->held[i] &&", "n->keep = false &&"},
  }},
  {name = "a state that a fault left half written has values", edits = {
    {"src/tensor/queue.c", "ml_loss *loss = o->status == ML_OK ? NULL :",
      "ml_loss *loss = o->status == ML_OK || o->status == ML_USAGE ? NULL :"},
  }},
  {name = "a call that is cancelled loses what was to be written before it", edits = {
    {"src/tensor/plan/evaluate.c", "(status != ML_OK && !began)) return status;",
      "(status != ML_OK && !began && status != ML_CANCELLED)) return status;"},
  }},
  {name = "a compiled function runs its plan while another is recorded", edits = {
    {"lua/compile.lua", "if core.recording() then return trace.record_part(fn, ...) end", ""},
  }},
  {name = "activations are cut and not rounded", isa = "avx2", edits = {
    {"src/tensor/cpu/isa/dot.c", "float r = (by.rounds ? x[i] : 0.0f) * by.inverse + TO_INTEGER;",
      "float r = (float)(int32_t)((by.rounds ? x[i] : 0.0f) * by.inverse) + TO_INTEGER;"},
  }},
  {name = "a norm leaves an element out", isa = "avx512", edits = {
    {"src/tensor/cpu/isa/norm.c", "add_term(s, v_load_part(x + i, (int)(n - i), 0), squares)",
      "add_term(s, v_keep(v_load_part(x + i, (int)(n - i), 0), (int)(n - i) - 1), squares)"},
  }},
  {name = "exponentials are off by 0.00001 of their size", isa = "avx2", edits = {
    {"src/tensor/cpu/isa/norm.c", "v16f e = v_exp(v_add(v_load(x + i), less));",
      "v16f e = v_mul(v_set1(1.00001f), v_exp(v_add(v_load(x + i), less)));"},
    {"src/tensor/cpu/isa/norm.c", "v16f e = v_keep(v_exp(v_add(v_load_part(x + i, rest, 0), less)), rest);",
      "v16f e = v_mul(v_set1(1.00001f), v_keep(v_exp(v_add(v_load_part(x + i, rest, 0), less)), rest));"},
  }},
  {name = "the host reads where a device has its memory", on = "twin", by = "tests/lua/test_tensor.lua", edits = {
    {"src/tensor/queue.c", "ML_TRY(d->table->download(d, to, (const char *)b->address + offset, bytes, &ticket));",
      "memcpy(to, (const char *)b->address + offset, bytes); ticket = 0;"},
    {"src/tensor/queue.c", "#include <stdio.h>", "#include <stdio.h>\n#include <string.h>"},
  }},
  {name = "what is brought to the host is not waited for", on = "twin", by = "tests/lua/test_tensor.lua", edits = {
    {"src/tensor/queue.c", "ML_TRY(d->table->wait(d, ticket, NULL)); while (d->first && d->first->ticket <= ticket)",
      "while (d->first && d->table->done(d, d->first->ticket))"},
  }},
  {name = "an arena has no memory", on = "twin", by = "tests/lua/test_plans.lua", edits = {
    {"src/tensor/arena.c",
      "ML_TRY(d->table->commit(d, (char *)a->buffer->address + a->bytes, whole - a->bytes));", ""},
  }},
  {name = "outputs are written over while they are held", on = "twin", by = "tests/lua/test_devices.lua", edits = {
    {"src/tensor/buffer.c", "if (old->references == 1 + old->flights && !old->fixed) {", "if (!old->fixed) {"},
  }},
  {name = "a fault that comes back with a ticket is not heard", on = "twin", by = "tests/lua/test_state.lua", edits = {
    {"src/tensor/queue.c", "if (o.status != ML_OK && !f->lost) {",
      "if (o.status != ML_OK && o.status != ML_USAGE && !f->lost) {"},
  }},
  {name = "a value of a run that failed is computed again of what that run wrote", on = "twin",
    by = "tests/lua/test_state.lua", edits = {
      {"src/tensor/plan/evaluate.c", "if (!before->node && before->buffer == cell->buffer)",
        "if (!before && before->buffer == cell->buffer)"},
    }},
  {name = "a run that was cancelled counts as done", on = "twin", by = "tests/lua/test_programs.lua", edits = {
    {"src/tensor/queue.c", "if (o.status != ML_OK && !f->lost) {",
      "if (o.status != ML_OK && o.status != ML_CANCELLED && o.status != ML_DEADLINE && !f->lost) {"},
  }},
  {name = "what failed in appending is forgotten", on = "twin", by = "tests/lua/test_state.lua", edits = {
    {"src/tensor/queue.c", "t->fate = ML_FATE_FAILED;", ""},
  }},
  {name = "bytes from the host arrive before their turn", on = "twin", by = "tests/lua/test_devices.lua", edits = {
    {"tests/twin/twin.c",
      "return give_copy(d->state, &(job){.kind = UPLOAD, .at = to, .bytes = bytes}, from, bytes, out);",
      [[carry_out(d->state, &(job){.kind = UPLOAD, .at = to, .host = (void *)(uintptr_t)from, .bytes = bytes});
        *out = 0; return ML_OK;]]},
  }},
  {name = "weights are packed in another device's groups", on = "twin", by = "tests/lua/test_layouts.lua", edits = {
    {"src/tensor/weight.c", "*rows = (groups > 0 ? groups : 1) * device->group;", "*rows = 16;"},
  }},
  {name = "a plan takes what lies on two devices", on = "twin", by = "tests/lua/test_devices.lua", edits = {
    {"src/tensor/graph.c", "else if (t->device != first->device)", "else if (!t)"},
  }},
  {name = "a run that is given nothing is left out", on = "twin", by = "tests/lua/test_devices.lua", edits = {
    {"src/tensor/queue.c", "ML_TRY(flight_of(p, inputs, outputs, &f));",
      [[for (int i = 0; i < p->n_inputs; i++) {
          if (ml_tensor_size(inputs[i]) == 0) { *began = true; return ML_OK; }
        }
        ML_TRY(flight_of(p, inputs, outputs, &f));]]},
  }},
  {name = "zeros at the end are not brought over", on = "twin", by = "tests/lua/test_devices.lua", edits = {
    {"src/tensor/queue.c", "return d->table->upload(d, (char *)b->address + offset, from, bytes, &ticket);",
      [[while (bytes > 8192 && !((const char *)from)[bytes - 1]) bytes--;
        return d->table->upload(d, (char *)b->address + offset, from, bytes, &ticket);]]},
  }},
  {name = "what a run holds is never given back", on = "twin", by = "tests/lua/test_plans.lua", edits = {
    {"src/tensor/queue.c", "f->buffers[i]->flights--; ml_buffer_release(f->buffers[i]);", "f->buffers[i]->flights--;"},
  }},
}
