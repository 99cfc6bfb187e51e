---Cancel tokens: a flag that a script hands to a call and raises from a callback, another coroutine or a signal.
local util = require "moonlet.util"

local M = {}

local Token = {}
Token.__index = Token
---Ends what the token was handed to; `token.cancelled` is true from then on.
function Token:cancel() self.cancelled = true end
util.guard(Token, "token:", true)

---A flag to hand to generate: token:cancel() ends it.
---@return table  {cancelled = false, cancel = function}
function M.cancel_token() return setmetatable({cancelled = false}, Token) end

function M.is_token(x) return getmetatable(x) == Token end

return M
