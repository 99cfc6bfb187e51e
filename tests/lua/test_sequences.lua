-- Sequences in pages (@emulated): whatever tables, slots, counts, offsets and windows say, what is appended is there,
-- and attention is that of each sequence's keys and values side by side, on the processor. TRIALS: so many.
local core = require "moonlet.core"
local ml = require "moonlet"
local new_random = require "tests.lua.programs.random"
local t = require "tests.lua.harness"

local TRIALS = math.tointeger(tonumber(os.getenv "TRIALS" or 60))
local LIMITS = {float32 = 3e-5, float16 = 6e-3, bfloat16 = 4e-2}

t.leak_check = function() return ml.memory.active() end

local seed = 0
local function normal(shape, dtype)
  seed = seed + 1
  return ml.random.normal(shape, {key = ml.random.key(seed)}):astype(dtype or "float32")
end

local function shuffled(random, n)
  local list = {}
  for i = 1, n do list[i] = i - 1 end
  for i = 1, n - 1 do
    local k = random:int(i, n)
    list[i], list[k] = list[k], list[i]
  end
  return list
end

local function make(random)
  local c = {
    T = random:pick {1, 1, random:int(2, 8), random:int(9, 40)}, page = random:pick {1, 3, 16, 64, 64, 64, 128},
    kv = random:int(1, 2), d = random:pick {16, 40, 64, 64, 64, 128, 128, 256},
    window = random:pick {0, 0, random:int(1, 90)}, softcap = random:pick {0, 0, 2}, sinks = random:chance(0.3),
    packed = random:chance(0.25), fast = random:chance(0.8), kept = random:pick {"float32", "float16", "bfloat16"},
    index = random:pick {"int32", "int64", "uint8", "uint16"},
  }
  c.asked = random:chance(0.8) and c.kept or random:pick {"float32", "float16", "bfloat16"}
  c.heads = c.kv * random:pick {1, 3, 4, 9}
  c.dv = random:chance(0.85) and c.d or 24
  if random:chance(0.4) then -- what there are fast kernels for
    c.T, c.page, c.d = random:pick {1, 1, 1, random:int(9, 40), 100}, random:pick {64, 128}, random:pick {64, 128}
    c.kept, c.packed, c.fast = random:pick {"float16", "bfloat16"}, false, true
    c.asked, c.dv = c.kept, c.d
  end
  c.each = (c.T + random:pick {3, 100, 100, 600}) // c.page + 1
  c.rows = random:int(1, 4)
  c.n = random:chance(0.3) and c.rows or random:int(1, c.rows)
  c.no_slots = c.n == c.rows and random:chance(0.6)
  c.slots = c.no_slots and {table.unpack({0, 1, 2, 3}, 1, c.n)} or {table.unpack(shuffled(random, c.rows), 1, c.n)}
  local room, at = c.page * c.each, c.packed and random:int(0, 2) or 0
  local counted = not c.packed and random:chance(0.5)
  c.start, c.count, c.first, c.offsets = {}, {}, {}, {at}
  for r = 1, c.n do
    c.count[r] = c.packed and random:pick {random:int(0, c.T), c.T} or counted and random:int(0, c.T) or c.T
    c.start[r] = random:pick {0, room - c.count[r], random:int(0, room - c.count[r])}
    c.first[r] = at
    if c.packed then at = at + c.count[r] end
    c.offsets[r + 1] = at
  end
  c.tokens = c.packed and at + random:int(0, 2) or c.T
  c.counted = counted
  c.pages = c.rows * c.each + random:int(0, 3)
  if c.pages > 255 or room > 255 then c.index = "int32" end
  return c
end

-- The table, and what it is without the entries that nobody may look up.
local function tables(random, c)
  local whole, part, of = {}, {}, shuffled(random, c.pages)
  for row = 1, c.rows do
    whole[row], part[row] = {}, {}
    for i = 1, c.each do
      whole[row][i] = of[(row - 1) * c.each + i]
      part[row][i] = -1
    end
  end
  for r, slot in ipairs(c.slots) do
    local from = c.window > 0 and math.max(0, c.start[r] + 1 - c.window) or 0
    local last = c.count[r] > 0 and (c.start[r] + c.count[r] - 1) // c.page or -1
    for i = from // c.page, last do part[slot + 1][i + 1] = whole[slot + 1][i + 1] end
  end
  return whole, part
end

-- Keys or values of a sequence after what was appended: (1, KV heads, positions, size), on the processor.
local function side_by_side(pool, ids, positions)
  local x = ml.take(pool, ml.tensor(ids, {dtype = "int32", device = "cpu"}), 1):transpose {2, 1, 3, 4}
  return x:reshape {1, x.shape[1], x.shape[2] * x.shape[3], x.shape[4]}:slice {{}, {}, {1, positions}, {}}
end

local function compare(c, r, got, q, k, v, sinks, what)
  local want = ml.attention(q, k, v, nil, nil, nil, nil, nil, nil, sinks,
    {scale = c.d ^ -0.5, window = c.window, softcap = c.softcap})
  local off = (got:astype "float32" - want:astype "float32"):abs():max():item()
  local limit = LIMITS[c.kept] > LIMITS[c.asked] and LIMITS[c.kept] or LIMITS[c.asked]
  t.ok(off <= limit, ("%s, sequence %d: off by %.3g"):format(what, r, off))
end

local function vector(list, dtype) return ml.tensor(list, {dtype = dtype}) end

-- Rotary embedding of heads of d elements, of all or the first of them.
local function turning(random, batch, tokens, d)
  local places = {}
  for b = 1, batch do
    places[b] = {}
    for i = 1, tokens do places[b][i] = random:int(0, 500) end
  end
  local turns = random:chance(0.6) and d // 2 or d // 8
  local frequencies = ml.random.uniform({turns}, {key = ml.random.key(turns)})
  local angles, interleaved = ml.rope_table(ml.tensor(places, {dtype = "int32"}), frequencies, 1), random:chance(0.2)
  ml.eval(angles)
  return function(x) return ml.rope(x, angles, interleaved) end
end

local function try(random, trial)
  local c = make(random)
  local whole, part = tables(random, c)
  local signed = c.index:sub(1, 1) == "i"
  local pages = vector(signed and part or whole, c.index)
  if random:chance(0.3) then -- a table of wider rows
    pages = ml.concat({pages, pages}, 2)
    ml.eval(pages)
    pages = pages:slice {{}, {1, c.each}}
  end
  local slots = not c.no_slots and vector(c.slots, c.index) or nil
  local start, count = vector(c.start, c.index), c.counted and vector(c.count, c.index) or nil
  local offsets = c.packed and vector(c.offsets, c.index) or nil
  local batch = c.packed and 1 or c.n
  local before = {k = normal({c.pages, c.kv, c.page, c.d}, c.kept), v = normal({c.pages, c.kv, c.page, c.dv}, c.kept)}
  local new = {k = normal({batch, c.kv, c.tokens, c.d}, c.asked), v = normal({batch, c.kv, c.tokens, c.dv}, c.asked)}
  local q, sinks = normal({batch, c.heads, c.tokens, c.d}, c.asked), c.sinks and normal {c.heads} or nil
  local asked, put = q * 2, {k = new.k, v = new.v} -- lie where the plan has put them, as fast kernels want it
  if random:chance(0.6) then -- heads are turned on their way
    local by = turning(random, batch, c.tokens, c.d)
    local turned_q, turned_k = by(q):copy(), random:chance(0.8) and by(new.k):copy() or new.k
    ml.eval(turned_q, turned_k, new.v) -- so that nothing but heads on their way stands before attention
    asked, put.k = by(q), turned_k ~= new.k and by(new.k) or new.k
    q, new.k = turned_q * 0.5, turned_k
  end
  local there, held, home = {}, {}, {}
  for name, x in pairs(before) do there[name] = ml.state(x:copy()) end
  for name in pairs(before) do
    held[name] = ml.cache_append(there[name], put[name], pages, slots, start, count, offsets)
  end
  local got = ml.attention(asked, held.k, held.v, pages, slots, start, count, offsets, nil, sinks,
    {scale = c.d ^ -0.5 / 2, window = c.window, softcap = c.softcap})
  asked:close()
  if put.k ~= new.k then put.k:close() end -- nobody holds it: it need not be anywhere but in its page
  local weight = core.random_packed("q8_0", 4, 32, 0.1, 1, not c.fast)
  ml.eval(got, held.k, held.v, ml.linear(normal {1, 32}, weight)) -- one plan, in which products may be inexact or not
  local what = ("trial %d: T %d page %d of %d, heads %d/%d of %d/%d, %s of %s%s%s"):format(trial, c.T, c.page, c.each,
    c.heads, c.kv, c.d, c.dv, c.asked, c.kept, c.packed and ", packed" or "", c.fast and ", fast" or "")
  local appended = 0
  for name in pairs(before) do home[name] = held[name]:to "cpu" end
  local cpu_q, cpu_got, cpu_sinks = q:to "cpu", got:to "cpu", sinks and sinks:to "cpu"
  local rest = cpu_got:astype "float32":abs():sum():item()
  for r, slot in ipairs(c.slots) do
    local n, all = c.count[r], c.start[r] + c.count[r]
    if n > 0 then
      local b, from = c.packed and 1 or r, c.first[r] + 1
      local own = {{b, b}, {}, {from, from + n - 1}, {}}
      local ids, kv = table.move(whole[slot + 1], 1, c.each, 1, {}), {}
      for name in pairs(before) do
        kv[name] = side_by_side(home[name], ids, all)
        local found = kv[name]:slice {{}, {}, {all - n + 1, all}, {}}
        local given = new[name]:to "cpu":slice(own):astype(c.kept)
        t.ok(found:eq(given):all():item(), what .. ": what was appended")
        appended = appended + n
      end
      compare(c, r, cpu_got:slice(own), cpu_q:slice(own), kv.k, kv.v, cpu_sinks, what)
      rest = rest - cpu_got:slice(own):astype "float32":abs():sum():item()
    end
  end
  t.ok(math.abs(rest) < 0.01, ("%s: what is nobody's is not 0 but %g"):format(what, rest))
  local changed = 0
  for name, x in pairs(before) do
    changed = changed + home[name]:ne(x:to "cpu"):astype "float32":max(4):max(2):sum():item()
  end
  t.ok(changed <= appended, ("%s: %d of %d positions written"):format(what, changed, appended))
end

t.test("pages, slots, counts, offsets and windows of any kind", function()
  local random = new_random(math.tointeger(tonumber(os.getenv "SEED" or 1)))
  for trial = 1, TRIALS do ml.scope(function() try(random, trial) end) end
end)

t.test("sequences end to end without pages", function()
  local random = new_random(9)
  for trial = 1, 8 do
    ml.scope(function()
      local c = make(random)
      local at = {1}
      for r = 1, 3 do at[r + 1] = at[r] + random:int(0, c.T) end
      local shape = {1, c.kv, at[4] + 1, c.d}
      local q, k, v = normal({1, c.heads, shape[3], c.d}, c.asked), normal(shape, c.kept), normal(shape, c.kept)
      local got = ml.attention(q, k, v, nil, nil, nil, nil, vector(at, "int32"), nil, nil,
        {scale = c.d ^ -0.5, window = c.window, softcap = c.softcap}):to "cpu"
      for r = 1, 3 do
        local own = {{}, {}, {at[r] + 1, at[r + 1]}, {}}
        if at[r + 1] > at[r] then
          compare(c, r, got:slice(own), q:to "cpu":slice(own), k:to "cpu":slice(own), v:to "cpu":slice(own), nil,
            "trial " .. trial)
        end
      end
      for _, at_end in ipairs {1, shape[3]} do
        t.close(got:slice {{}, {}, {at_end, at_end}, {}}:astype "float32":abs():sum():item(), 0, 0, "nobody's")
      end
    end)
  end
end)

t.test("heads are turned and put into pages together as they are one after another", function()
  for _, case in ipairs {
    {6, 3, 2, 16, 4, "float32", "bfloat16"}, {5, 2, 1, 10, 3, "float16", "float32", interleaved = true},
    {170, 4, 1, 64, 32, "bfloat16", "bfloat16"}, {170, 4, 1, 64, 24, "bfloat16", "float16", kept = true},
    {20, 2, 2, 64, 32, "bfloat16", "bfloat16", twice = true},
    {90, 2, 3, 72, 32, "float32", "float32"}, {1, 9, 3, 64, 32, "bfloat16", "bfloat16"},
  } do
    local T, H, KV, d, n, asked, kept = table.unpack(case)
    local q, k, v = normal({2, H, T, d}, asked), normal({2, KV, T, d}, asked), normal({2, KV, T, d}, asked)
    local places = ml.rope_table(ml.arange(3, 3 + 2 * T):astype "int32":reshape {2, T}, normal {n}, 1)
    local pages, start = vector({{1, 4, 2}, {0, 3, 5}}, "int32"), vector({7, 2}, "int32")
    local count = vector({T, math.max(T - 2, 0)}, "int32")
    local function pool() return ml.state(ml.zeros({6, KV, 64, d}, {dtype = kept})) end
    local pools = {pool(), pool()}
    local function all(q_, k_, v_)
      local turned_q, turned_k = ml.rope(q_, places, case.interleaved), ml.rope(k_, places, case.interleaved)
      ml.cache_append(pools[1], turned_k, pages, nil, start, count)
      local other = case.twice and ml.rope(turned_k, places) or v_
      ml.cache_append(pools[2], other, pages, nil, start, count)
      return turned_q * 2.0, case.kept and turned_k or turned_q
    end
    local a, b = ml.compile(function(...) return all((...) + 0.0, select(2, ...)) end)(q, k, v)
    ml.eval(a, b)
    local home_table = places:to "cpu"
    local function turned(x) return ml.rope(x:to "cpu", home_table, case.interleaved) end
    local what = ("%d tokens, heads of %d, %d turned"):format(T, d, 2 * n)
    t.eq(a:to "cpu":tobytes(), (turned(q) * 2.0):tobytes(), what)
    t.eq(b:to "cpu":tobytes(), turned(case.kept and k or q):tobytes(), what)
    for i, x in ipairs {turned(k), case.twice and turned(turned(k)) or v:to "cpu"} do
      local kept_there, written = pools[i]:to "cpu", 0
      for r, list in ipairs {{1, 4, 2}, {0, 3, 5}} do
        local first, real = ({7, 2})[r], ({T, math.max(T - 2, 0)})[r]
        if real > 0 then
          local found = side_by_side(kept_there, list, first + real):slice {{}, {}, {first + 1, first + real}, {}}
          local given = x:slice {{r, r}, {}, {1, real}, {}}:astype(kept)
          t.ok(found:eq(given):all():item(), what .. ": pages")
          written = written + real
        end
      end
      t.ok(kept_there:ne(0):astype "float32":max(4):max(2):sum():item() <= written, what .. ": written elsewhere")
    end
  end
end)

t.test("what makes no sense is a fault with its value and limit", function()
  local x, list = ml.zeros {2, 1, 3, 8}, {scale = 1}
  local function refused(value, limit, of)
    local o = {pages = {{0, 1}, {2, 3}}, slots = {0, 1}, start = {0, 0}}
    for name, given in pairs(of) do o[name] = given end
    local a = {}
    for i, name in ipairs {"pages", "slots", "start", "count", "offsets"} do
      a[i] = o[name] and vector(o[name], "int32") or nil
    end
    local given = o.offsets and ml.zeros {1, 1, 3, 8} or x
    local pool = ml.state(ml.zeros {4, 1, 4, 8})
    local text = (": index %d is out of range for size %d"):format(value, limit):gsub("%-", "%%-")
    t.raises(function() ml.eval(ml.attention(given, pool, pool, a[1], a[2], a[3], a[4], a[5], nil, nil, list)) end,
      "attention" .. text, "usage")
    t.raises(function() ml.eval(ml.cache_append(pool, given, a[1], a[2], a[3], a[4], a[5])) end,
      "cache_append" .. text, "usage")
  end
  refused(2, 2, {slots = {0, 2}})
  refused(-1, 2, {slots = {-1, 1}})
  refused(4, 4, {pages = {{0, 1}, {4, 3}}})
  refused(-1, 4, {pages = {{0, 1}, {-1, 3}}})
  refused(6, 6, {start = {0, 6}})
  refused(-1, 6, {start = {-1, 0}})
  refused(4, 4, {count = {4, 0}})
  refused(-1, 4, {count = {0, -1}})
  refused(9, 4, {offsets = {0, 1, 9}})
  refused(2, 2, {offsets = {0, 2, 1}})
end)

t.test("each key draws what it does alone", function()
  local keys = ml.random_bits(ml.random.key(3), {5, 3})
  local all = ml.random_bits(keys, {5, 2, 7}):tolist()
  for i = 1, 5 do t.eq(all[i], ml.random_bits(keys[i], {2, 7}):tolist()) end
  t.eq(ml.random_bits(keys:slice {{}, {1, 2}}:copy(), {5, 1}).shape, {5, 1})
  t.eq(ml.random_bits(ml.zeros({0, 2}, {dtype = "uint32"}), {0, 4}).shape, {0, 4})
end)

t.test("rotary tables of positions of any integer dtype", function()
  local frequencies = ml.tensor {1, 0.3, 0.01}
  for _, dtype in ipairs {"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"} do
    local list = ml.rope_table(vector({{5, 0, 99}, {7, 7, 120}}, dtype), frequencies, 2):tolist()
    for b, row in ipairs {{5, 0, 99}, {7, 7, 120}} do
      for i, position in ipairs(row) do
        for k, f in ipairs {1, 0.3, 0.01} do
          t.ok(math.abs(list[b][i][k] - 2 * math.cos(position * f)) < 1e-4, dtype)
          t.ok(math.abs(list[b][i][k + 3] - 2 * math.sin(position * f)) < 1e-4, dtype)
        end
      end
    end
  end
end)

os.exit(t.done())
