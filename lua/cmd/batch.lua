---`moonlet batch`: many prompts at once, a line each.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local options = require "moonlet.cmd.options"

local M = {
  name = "batch",
  summary = "answer many prompts at once",
  usage = "-m MODEL [--out ANSWERS] [options] < prompts.jsonl",
  about = [[
Reads one JSON value a line: a text, a list of ids, a list of messages, or an object {prompt, ...} with
options of its own (max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed, stop, ignore_eos)
and, if you like, an id. Writes one object a line as answers end: {line, id, text, ids, finish_reason,
metrics}, or {line, id, error}. With --out they are appended to a file, and lines that it answers already
are left out, so that a run that was stopped is taken up by the same command.]],
  example = "moonlet batch -m checkpoints/SmolLM2-135M-Instruct.gguf --out answers.jsonl -n 64 < prompts.jsonl",
}

M.options = common.options(common.model, {
  {name = "out", type = "string", value = "FILE", help = "appends answers to it; those that it has are not asked for"},
  {name = "slots", type = "integer", value = "N", min = 1, default = 8, help = "prompts that run together"},
  {name = "max-tokens", short = "n", type = "integer", value = "N", min = 0, default = 256,
    help = "the most tokens to make"},
  {name = "ignore-eos", help = "go on past end tokens"},
}, common.sampling, common.loading)

-- Lines that a file of answers has already. One that was cut off in the middle is none.
local function answered(path)
  local done, file = {}, io.open(path)
  if not file then return done end
  for line in file:lines() do
    local answer = ml.json.decode(line)
    local number = type(answer) == "table" and math.tointeger(answer.line)
    if number and not answer.error then done[number] = true end
  end
  file:close()
  return done
end

-- Begins a new line where the last one was cut off.
local function open_answers(path)
  local before = io.open(path, "rb")
  local last = before and before:seek("end") > 0 and before:seek("end", -1) and before:read(1)
  if before then before:close() end
  local file, why = io.open(path, "ab")
  if not file then options.fail("%s", why) end
  if last and last ~= "\n" then file:write "\n" end
  return file
end

local function read_prompts(done)
  local prompts, lines, ids, number = {}, {}, {}, 0
  for line in io.lines() do
    number = number + 1
    if line:find "%S" and not done[number] then
      local value, why = ml.json.decode(line)
      if value == nil or value == ml.json.null then
        options.fail("line %d: %s", number, why or "expected a prompt, found null")
      end
      local prompt = {}
      if type(value) == "table" and value.prompt ~= nil then
        for name, own in pairs(value) do prompt[name] = own end
        ids[number], prompt.id = prompt.id, nil
      else
        prompt.prompt = value
      end
      prompts[#prompts + 1], lines[#lines + 1] = prompt, number
    end
  end
  return prompts, lines, ids
end

function M.run(opts)
  local done = opts.out and answered(opts.out) or {}
  local prompts, lines, ids = read_prompts(done)
  if next(done) then common.note(opts, "%d prompts left; the others are answered in %s", #prompts, opts.out) end
  local file = opts.out and open_answers(opts.out)
  local m <close> = common.load(opts)
  local shared = common.sampling_of(opts)
  shared.slots, shared.iterate = opts.slots, true
  local failed = 0
  for index, r in m:batch_generate(prompts, shared) do
    local line = lines[index]
    local answer = {line = line, id = ids[line], error = r.error and tostring(r.error)}
    if not r.error then
      answer.text, answer.ids = m.tokenizer and r.text or ml.json.null, ml.json.array(r.ids)
      answer.finish_reason, answer.metrics = r.finish_reason, r.metrics
    end
    failed = failed + (r.error and 1 or 0)
    if file then
      local ok, why = file:write(ml.json.encode(answer), "\n")
      if ok then ok, why = file:flush() end
      if not ok then options.fail("%s: %s", opts.out, why) end
    else
      common.print_json(answer)
    end
  end
  if file then file:close() end
  if failed > 0 then common.note(opts, "%d of %d prompts failed", failed, #prompts) end
  return failed > 0 and 1 or 0
end

return M
