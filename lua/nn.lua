---Modules: classes whose fields are parameters and other modules. Field paths are the names that checkpoints use: the
---i-th member of a list has the component i-1.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local trace = require "moonlet.trace"
local util = require "moonlet.util"

local M = {}

-- What is known of an instance beside its fields: order of assignment, name, training mode.
local private = setmetatable({}, {__mode = "k"})

---@class moonlet.Module
local Module = {}

local function is_module(x) return type(x) == "table" and private[x] ~= nil end
function trace.module_state(x) return is_module(x) and private[x] or nil end

-- What a constructor is given beyond what it reads would have no effect in silence.
local function no_more(what, ...)
  for i = 1, select("#", ...) do
    local extra = select(i, ...)
    if extra ~= nil then util.raise("usage", "%s: an argument too many: %s", what, util.show(extra)) end
  end
end

local function one_of(what, choice, choices)
  if util.contains(choices, choice) then return choice end
  util.unexpected(what, '"' .. table.concat(choices, '", "') .. '"', choice)
end

local flag = util.flag

local Parameter = {__name = "moonlet.Parameter"}
---A parameter that has a shape and no value yet, for a field of a module.
---@param shape integer[]
---@param kind string  "matrix" (of products and look-ups, or one an expert; packed when it is loaded) or "vector"
---@param init string|nil  "normal" unless given; "ones", "zeros"
function M.parameter(shape, kind, init, ...)
  shape = util.shape("parameter: shape", shape)
  no_more("parameter", ...)
  return setmetatable({
    shape = shape, kind = one_of("parameter: kind", kind, {"matrix", "vector"}),
    init = one_of("parameter: init", init or "normal", {"normal", "ones", "zeros"}),
  }, Parameter)
end
local function is_parameter(x) return getmetatable(x) == Parameter end
trace.is_parameter = is_parameter

-- The value of a parameter field; one that was never loaded is made now, for good, even while a plan is recorded.
local function value(self, name)
  local v = self[name]
  if not is_parameter(v) then return v end
  if v.init == "ones" or v.init == "zeros" then v = ml[v.init](v.shape)
  else
    local bound = (3 / (v.shape[#v.shape] or 1)) ^ 0.5
    local random = require "moonlet.random"
    v = random.uniform(v.shape, {low = -bound, high = bound, key = trace.key_now()})
  end
  ml.eval(v)
  self[name] = ml.keep(v)
  return v
end

local function remember(self, key, v)
  local own = private[self]
  own.order[#own.order + 1] = key
  if is_module(v) then private[v].name = tostring(key) end
  rawset(self, key, v)
end

local function is_list(v) return type(v) == "table" and not is_module(v) and is_module(v[1]) end

-- Members of a list are called by their places, 0-based.
local function name_members(key, list)
  for i, member in ipairs(list) do private[member].name = key .. "." .. (i - 1) end
end

---A class of modules: `local C = nn.class "C"; function C:init(...) end; function C:forward(...) end`.
---@param name string
function M.class(name)
  if type(name) ~= "string" then util.unexpected("class: name", "a string", name) end
  local class = setmetatable({class_name = name}, {
    __index = Module,
    __call = function(class, ...)
      local self = {}
      private[self] = {order = {}, name = name, training = false}
      setmetatable(self, class)
      class.init(self, ...)
      for _, key in ipairs(private[self].order) do
        local v = rawget(self, key)
        if is_list(v) then name_members(key, v) end
      end
      return self
    end,
  })
  class.__index = class
  class.__newindex = remember
  class.__name = name
  class.__call = function(self, ...)
    local _ <close> = core.enter(private[self].name, ...) -- what it makes on the way lies where its tensors do
    if not class.forward then util.raise("usage", "class %s has no forward", name) end
    return class.forward(self, ...)
  end
  return class
end

---The class of a family: the model types that it serves, to be returned by its file.
---@param model_type string
---@param ... string  further model types
function M.model(model_type, ...)
  local class = M.class(model_type)
  class.model_types = {model_type, ...}
  class.config, class.ignore, class.lora = {}, {}, {}
  return class
end

-- Visits fields in order: visit(owner, key, value, path). Lists of modules are walked by index.
local function walk(self, prefix, visit)
  for _, key in ipairs(private[self].order) do
    local v = rawget(self, key)
    local path = prefix .. tostring(key)
    if is_module(v) then
      private[v].name = tostring(key)
      visit(self, key, v, path)
      walk(v, path .. ".", visit)
    elseif ml.is_tensor(v) or is_parameter(v) then
      visit(self, key, v, path)
    elseif is_list(v) then
      name_members(key, v)
      for i, member in ipairs(v) do
        visit(v, i, member, path .. "." .. (i - 1))
        walk(member, path .. "." .. (i - 1) .. ".", visit)
      end
    end
  end
end

---Calls fn(owner, key, value, path) for every parameter, in order of assignment.
function Module:each_parameter(fn)
  util.callable("each_parameter: fn", fn)
  walk(self, "", function(owner, key, v, path)
    if not is_module(v) then fn(owner, key, v, path) end
  end)
end

---{path = tensor}, and the paths in order.
function Module:parameters()
  local out, order = {}, {}
  self:each_parameter(function(owner, key, _, path)
    out[path] = value(owner, key)
    order[#order + 1] = path
  end)
  return out, order
end

---A list of {path, module}, this one first.
function Module:named_modules()
  local out = {{"", self}}
  walk(self, "", function(_, _, v, path)
    if is_module(v) then out[#out + 1] = {path, v} end
  end)
  return out
end

local function holds_integers(v) return ml.is_tensor(v) and (v.dtype:find "int" or v.dtype == "bool") end

-- Raises unless `new` can stand where `old` does, a tensor or a parameter without a value.
local function check_new(what, old, new)
  if not ml.is_tensor(new) or core.is_closed(new) then util.unexpected(what, "a tensor", new) end
  if ml.is_tensor(old) and core.is_closed(old) then util.raise("usage", "%s: its own tensor is closed", what) end
  if table.concat(new.shape, ",") ~= table.concat(old.shape, ",") then
    util.raise("mismatch", "%s: expected shape (%s), found (%s)", what, table.concat(old.shape, ", "),
      table.concat(new.shape, ", "))
  end
  if holds_integers(new) and not holds_integers(old) then util.unexpected(what, "floats", new) end
end

-- Replaces all of the parameters that a tree has, or none.
local function replace(self, what, tree)
  local left, places = {}, {}
  for path in pairs(tree) do left[path] = true end
  self:each_parameter(function(owner, key, v, path)
    local new = tree[path]
    if new == nil then return end
    left[path] = nil
    check_new(("%s: %s"):format(what, path), v, new)
    places[#places + 1] = {owner, key, new}
  end)
  local unknown = util.sorted_keys(left)[1]
  if unknown then util.raise("not_found", "%s: %s: the module has no such parameter", what, util.text(unknown)) end
  for _, place in ipairs(places) do rawset(table.unpack(place)) end
  return self
end

---Replaces parameters by path: {["layers.0.weight"] = tensor}. All of them, or where one is unknown or does not fit
---(by its shape, or integers for floats), which is an error, none.
---@param tree table<string, moonlet.Tensor>
function Module:update(tree)
  if type(tree) ~= "table" then util.unexpected("update", "a table {path = tensor}", tree) end
  return replace(self, "update", tree)
end

---Calls fn(tensor, path) for every parameter and keeps what it returns.
function Module:apply(fn)
  util.callable("apply: fn", fn)
  self:each_parameter(function(owner, key, _, path)
    local new = fn(value(owner, key), path)
    if new ~= nil then rawset(owner, key, new) end
  end)
  return self
end

---Replaces parameters by the tensors of a .safetensors file: by all of them, or where one is unknown or does not fit by
---none. The module, or nil, message, code.
---@param path string
function Module:load_weights(path)
  local tensors, message, code = ml.load_safetensors(path)
  if not tensors then return nil, message, code end
  return util.soft(replace, self, path, tensors)
end

---Writes the parameters to a .safetensors file, each in its own dtype; it holds no block formats. True, or nil,
---message, code.
---@param path string
function Module:save_weights(path)
  local tensors, order = self:parameters()
  return require("moonlet.files").save_safetensors(path, tensors, {format = "pt"}, order) -- which transformers asks for
end

---Switches training on (Dropout drops), here and in all modules below.
---@param on boolean|nil  true unless given
function Module:train(on)
  flag("train", on)
  for _, entry in ipairs(self:named_modules()) do private[entry[2]].training = on ~= false end
  return self
end
---Switches training off.
function Module:eval() return self:train(false) end
---Whether training is on.
---@return boolean
function Module:is_training() return private[self].training end
---The float dtype to compute in, here and in all modules below: what embeddings give, and so what is computed of it.
---Norms, products, rotary embeddings and attention keep the dtype that they are given, whatever that of their weights.
---@param dtype string  "float32", "float16" or "bfloat16"
function Module:compute_in(dtype)
  one_of("compute_in: dtype", dtype, util.compute_dtypes)
  for _, entry in ipairs(self:named_modules()) do private[entry[2]].dtype = dtype end
  return self
end
---The name by which plans and messages call the module.
---@param name string
function Module:set_name(name) private[self].name = name end
util.guard(Module, "module:", true, false, is_module)

-- ---- the modules themselves ----

local function check_size(what, n) return util.integer(what, n, 1, (1 << 31) - 1) end

-- A vector that meets what is computed in float16 or bfloat16 is rounded to that, rather than widen it.
local function in_narrow(v, dtype)
  return (dtype == "float16" or dtype == "bfloat16") and util.in_dtype(v, dtype) or v
end

---y = x W' + b; weight (outputs, inputs): opts {bias = false}.
local Linear = M.class "Linear"
function Linear:init(inputs, outputs, opts, ...)
  no_more("Linear", ...)
  check_size("Linear: inputs", inputs)
  check_size("Linear: outputs", outputs)
  opts = util.options(opts, {bias = false}, "Linear")
  self.weight = M.parameter({outputs, inputs}, "matrix")
  if flag("Linear: bias", opts.bias) then self.bias = M.parameter({outputs}, "vector", "zeros") end
end
function Linear:forward(x)
  local y = ml.linear(x, value(self, "weight"))
  if self.bias then y = y + in_narrow(value(self, "bias"), y.dtype) end
  return y
end

---Rows of weight (count, size) by id, in the dtype that `compute_in` names; `as_linear` multiplies with the same weight
---(tied output head).
local Embedding = M.class "Embedding"
function Embedding:init(count, size, ...)
  no_more("Embedding", ...)
  check_size("Embedding: count", count)
  check_size("Embedding: size", size)
  self.weight = M.parameter({count, size}, "matrix")
end
function Embedding:forward(ids) return ml.embedding(value(self, "weight"), ids, private[self].dtype) end
function Embedding:as_linear(x)
  local _ <close> = core.enter(private[self].name, x)
  return ml.linear(x, value(self, "weight"))
end

---x / rms(x) times (offset + weight): opts {eps = 1e-5, offset = 0}.
local RMSNorm = M.class "RMSNorm"
function RMSNorm:init(size, opts, ...)
  no_more("RMSNorm", ...)
  check_size("RMSNorm: size", size)
  opts = util.options(opts, {eps = 1e-5, offset = 0}, "RMSNorm")
  util.number("RMSNorm: eps", opts.eps, 0)
  util.number("RMSNorm: offset", opts.offset)
  rawset(self, "options", opts)
  self.weight = M.parameter({size}, "vector", opts.offset == 0 and "ones" or "zeros")
end
function RMSNorm:forward(x) return ml.rms_norm(x, value(self, "weight"), self.options.eps, self.options.offset) end

---(x - mean) / deviation times weight, plus bias: opts {eps = 1e-5, bias = true}.
local LayerNorm = M.class "LayerNorm"
function LayerNorm:init(size, opts, ...)
  no_more("LayerNorm", ...)
  check_size("LayerNorm: size", size)
  opts = util.options(opts, {eps = 1e-5, bias = true}, "LayerNorm")
  rawset(self, "eps", util.number("LayerNorm: eps", opts.eps, 0))
  self.weight = M.parameter({size}, "vector", "ones")
  if flag("LayerNorm: bias", opts.bias) then self.bias = M.parameter({size}, "vector", "zeros") end
end
function LayerNorm:forward(x)
  return ml.layer_norm(x, value(self, "weight"), self.bias and value(self, "bias"), {eps = self.eps})
end

-- Layers that turn by the same frequencies share one tensor, so that a plan works their angles out once.
local tables = setmetatable({}, {__mode = "v"})
local owned -- the same, of the model that is built now

---Runs fn(...), which builds a model: what its modules share is shared with no other, so that it can be freed with it.
---@param fn function|table  what makes the model: a function, or a module's class
function M.build(fn, ...)
  util.callable("build", fn, "a function or a class")
  local outer = owned
  owned = {}
  local results = table.pack(core.call(fn, ...)) -- which does not yield: others build models too
  owned = outer
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

-- Of frequencies that lie on one device, the same on others, where modules came to be used.
local elsewhere = setmetatable({}, {__mode = "k"})

local function frequencies_beside(x, own, numbers)
  if x.device == own.device then return own end
  local known = elsewhere[own] or {}
  elsewhere[own] = known
  known[x.device] = known[x.device] or ml.keep(ml.tensor(numbers, {dtype = "float32", device = x.device}))
  return known[x.device]
end

local function shared_table(frequencies)
  local key = {}
  for i, f in ipairs(frequencies) do key[i] = ("%a"):format(f) end
  key = table.concat(key, " ")
  if owned then
    owned[key] = owned[key] or ml.tensor(frequencies, {dtype = "float32"})
    return owned[key]
  end
  tables[key] = tables[key] or ml.keep(ml.tensor(frequencies, {dtype = "float32"}))
  return tables[key]
end

---Rotary embedding of heads of `size` elements: opts {theta = 10000, scaling, partial = 1, interleaved = false}.
---`scaling` is the config's table; of each head the share `partial` is turned.
local RoPE = M.class "RoPE"
function RoPE:init(size, opts, ...)
  no_more("RoPE", ...)
  check_size("RoPE: size", size)
  local rope = require "moonlet.rope"
  opts = util.options(opts, {theta = 10000.0, scaling = false, partial = 1.0, interleaved = false}, "RoPE")
  util.number("RoPE: partial", opts.partial, 0, 1)
  local frequencies, scale = rope.frequencies(size, opts)
  rawset(self, "numbers", frequencies)
  rawset(self, "frequencies", shared_table(frequencies))
  rawset(self, "scale", scale)
  rawset(self, "interleaved", flag("RoPE: interleaved", opts.interleaved))
end
---x (B, H, T, d) at the positions of `cache`, or from 0.
function RoPE:forward(x, cache)
  local shape = x.shape
  if not cache then require("moonlet.cache").missing "RoPE" end
  local positions = cache and cache.positions or ml.arange(shape[3]):reshape {1, shape[3]}
  local table_ = ml.rope_table(positions, frequencies_beside(x, self.frequencies, self.numbers), self.scale)
  if not cache and shape[1] ~= 1 then table_ = ml.broadcast_to(table_, {shape[1], shape[3], table_.shape[3]}) end
  return ml.rope(x, table_, self.interleaved)
end

---While training, sets elements to 0 with probability p (0.5) and scales the rest by 1 / (1 - p); else x as it is.
local Dropout = M.class "Dropout"
function Dropout:init(p, ...)
  no_more("Dropout", ...)
  rawset(self, "p", util.number("Dropout: p", p or 0.5, 0, 1))
end
function Dropout:forward(x)
  if not self:is_training() or self.p == 0 then return util.value_of(x) end
  return require("moonlet.fn").dropout(x, self.p)
end

for name, class in pairs {Linear = Linear, Embedding = Embedding, RMSNorm = RMSNorm, LayerNorm = LayerNorm, RoPE = RoPE,
  Dropout = Dropout} do
  class.forward = util.interface(name, class.forward, true)
end

M.Module, M.Linear, M.Embedding, M.Dropout = Module, Linear, Embedding, Dropout
M.RMSNorm, M.LayerNorm, M.RoPE = RMSNorm, LayerNorm, RoPE
---Whether x is a module.
---@return boolean
function M.is_module(x) return is_module(x) end
---Whether x is a parameter without a value.
---@return boolean
function M.is_parameter(x) return is_parameter(x) end

return util.guard(M, "nn.", true)
