---Tensors in files: safetensors, GGUF, npy.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local util = require "moonlet.util"

local M = {}

local function read_all(file)
  local tensors = {}
  for _, entry in ipairs(file:entries()) do
    local t, message, code = file:load(entry.name)
    if not t then return nil, message, code end
    tensors[entry.name] = t
  end
  local metadata = file:metadata()
  file:close()
  return tensors, metadata
end

---Tensors of a .safetensors file by name, and the file's metadata, {text = text}.
---@param path string
---@return table|nil tensors
---@return table|string metadata  or the message of the failure
---@return string|nil code
function M.load_safetensors(path)
  local file, message, code = core.open_safetensors(path)
  if not file then return nil, message, code end
  return read_all(file)
end

---Tensors of a GGUF file by name, and its metadata; block formats stay quantised (`:dequantize()`), shapes row-major.
---@param path string
---@return table|nil tensors
---@return table|string metadata  or the message of the failure
---@return string|nil code
function M.load_gguf(path)
  local file, message, code = core.open_gguf(path)
  if not file then return nil, message, code end
  return read_all(file)
end

---Writes tensors in the order of `order`, or of their names. True, or nil, message, code.
---@param path string
---@param tensors table<string, moonlet.Tensor>
---@param metadata table<string, string>|nil
---@param order string[]|nil  names
function M.save_safetensors(path, tensors, metadata, order)
  order = order or util.sorted_keys(tensors)
  local list, keys, values = {}, {}, {}
  for i, name in ipairs(order) do list[i] = tensors[name] end
  for i, key in ipairs(util.sorted_keys(metadata or {})) do
    keys[i], values[i] = util.text(key), util.text(metadata[key])
  end
  return core.save_safetensors(path, order, list, keys, values)
end

-- npy: magic, version, header length, a Python dict of dtype, order and shape, then the bytes (NumPy's format 1.0).
local npy_types = {
  float32 = "<f4", float64 = "<f8", float16 = "<f2", int8 = "|i1", uint8 = "|u1", int16 = "<i2", uint16 = "<u2",
  int32 = "<i4", uint32 = "<u4", int64 = "<i8", uint64 = "<u8", bool = "|b1",
}

---Writes a tensor as NumPy reads it. True, or nil, message, code.
---@param path string
---@param x moonlet.Tensor
function M.save_npy(path, x)
  if not core.ops.is_tensor(x) then util.unexpected("save_npy", "a tensor", x) end
  local descr = npy_types[x.dtype]
  if not descr then return util.fail("unsupported", "%s: npy has no dtype %s", path, x.dtype) end
  local shape = table.concat(x.shape, ", ") .. (x.ndim == 1 and "," or "")
  local header = ("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }"):format(descr, shape)
  header = header .. (" "):rep(-(10 + #header + 1) % 64) .. "\n"
  return core.write_file(path, "\x93NUMPY\1\0" .. string.pack("<I2", #header) .. header .. x:tobytes())
end

---The tensor of a .npy file; nil, message, code when it cannot be read.
---@param path string
---@return moonlet.Tensor|nil
function M.load_npy(path)
  local f, why = io.open(path, "rb")
  if not f then return util.fail("not_found", "%s", why) end
  local text = f:read "a"
  f:close()
  if #text < 12 or text:sub(1, 6) ~= "\x93NUMPY" then return util.fail("corrupt", "%s: not an npy file", path) end
  local wide = text:byte(7) >= 2
  local size = wide and string.unpack("<I4", text, 9) or string.unpack("<I2", text, 9)
  local from = wide and 13 or 11
  local header = text:sub(from, from + size - 1)
  if #header < size then
    return util.fail("corrupt", "%s: the header ends after %d of %d bytes", path, #header, size)
  end
  local descr = header:match "'descr':%s*'([^']*)'"
  local order = header:match "'fortran_order':%s*(%a+)"
  local dims = header:match "'shape':%s*%(([^)]*)%)"
  local dtype
  for name, code in pairs(npy_types) do
    if code == descr then dtype = name end
  end
  if not dtype or not dims then
    return util.fail("unsupported", "%s: descr '%s' is not supported", path, tostring(descr))
  end
  if order ~= "False" then return util.fail("unsupported", "%s: column-major order is not supported", path) end
  local shape = {}
  for n in dims:gmatch "%d+" do shape[#shape + 1] = math.tointeger(n) end
  local x, message, code = util.soft(ml.from_bytes, text:sub(from + size), shape, dtype)
  if x then return x end
  return util.fail(code == "mismatch" and "corrupt" or code, "%s: %s", path, (message:gsub("^from_bytes: ", "")))
end

return util.guard(M, "")
