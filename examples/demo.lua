-- demo.lua MODEL [QUESTION]: a model answers one question, as a stream.
local ml = require "moonlet"

local path, question = arg[1], arg[2] or "What is photosynthesis?"
local model <close> = assert(ml.load(path))
local info = model.info
print(("%s, %d layers, %.0f million parameters\n"):format(info.model_type, info.layers, info.parameters / 1e6))
print("> " .. question .. "\n")
for token in model:chat({{role = "user", content = question}}, {max_tokens = 200}) do
  io.write(token.text)
  io.flush()
end
local m = model.metrics
print(("\n\n[%d tokens, %.0f a second]"):format(m.generated_tokens, m.decode_tokens_per_second))
