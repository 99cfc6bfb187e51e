# test_hosts.sh: programs that use moonlet from outside: those of examples/, and the stock interpreter.
# SANITIZE comes from the Makefile.
. tests/check.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

tiny=tests/goldens/tiny/llama
cp $tiny/config.json $tiny/model.safetensors tests/data/letters/*.json "$work"

# --- examples/embed.c ---

answers() {
  "$BUILD/examples/embed" "$work" "Why?" > "$work/out" 2> "$work/err" || { cat "$work/err"; return 1; }
  [ "$(tr -d '\n' < "$work/out" | wc -c)" -gt 20 ] || { echo "too short: $(cat "$work/out")"; return 1; }
  grep -q '^\(length\|stop\): [0-9]* tokens, .* a second' "$work/err" || { cat "$work/err"; return 1; }
}
is_cancelled() { # cancelled by its second thread before it has done anything
  "$BUILD/examples/embed" "$work" "Why?" 0 > "$work/out" 2> "$work/err" || { cat "$work/err"; return 1; }
  grep -q -e '^cancelled: ' -e '^length: ' "$work/err" || { cat "$work/err"; return 1; }
}
says_what_is_wrong() {
  "$BUILD/examples/embed" "$work/nothing" > "$work/out" 2> "$work/err" && { echo "it succeeded"; return 1; }
  grep -q 'nothing.*(not_found)' "$work/err" || { cat "$work/err"; return 1; }
}
in_order() { # answer, newline, figures, in one file
  "$BUILD/examples/embed" "$work" "Why?" > "$work/out" 2>&1 || { cat "$work/out"; return 1; }
  tail -n 1 "$work/out" | grep -q '^\(length\|stop\): ' || { cat "$work/out"; return 1; }
}
refuses_words() {
  "$BUILD/examples/embed" "$work" "Why?" soon > "$work/out" 2>&1
  [ $? = 2 ] || { cat "$work/out"; return 1; }
}
check "embed answers, with figures" answers
check "embed prints figures on a line of their own" in_order
check "embed takes no word for seconds" refuses_words
check "embed can be cancelled" is_cancelled
check "embed says what is wrong" says_what_is_wrong

checkpoints=${MOONLET_TEST_CHECKPOINTS-checkpoints}
real=$checkpoints/SmolLM2-135M-Instruct.gguf
in_time() {
  "$BUILD/examples/embed" "$real" "Write a long story about a lighthouse." 0.2 > "$work/out" 2> "$work/err" ||
    { cat "$work/err"; return 1; }
  grep -q '^cancelled: [0-9]* tokens' "$work/err" || { cat "$work/err"; return 1; }
}
if [ -z "$checkpoints" ]; then
  skip "embed cancels a real model in time" "real models are left out"
elif [ ! -e "$real" ]; then
  skip "embed cancels a real model in time" "no such model here; \`make models\` fetches it"
else
  check "embed cancels a real model in time" in_time
fi

# --- examples/batch.c ---

answers_all() {
  "$BUILD/examples/batch" "$work" "Why?" "How?" "And then?" > "$work/out" 2> "$work/err" ||
    { cat "$work/err"; return 1; }
  [ "$(grep -o '^[123]: .' "$work/out" | sort -u | wc -l)" = 3 ] || { cat "$work/out"; return 1; }
  grep -q '^[0-9]* tokens in .* s, .* a second' "$work/err" || { cat "$work/err"; return 1; }
}
names_the_row() { # whose question is longer than the context
  long=$(printf '%0400d' 0)
  "$BUILD/examples/batch" "$work" "$long" "Why?" > "$work/out" 2> "$work/err" || { cat "$work/err"; return 1; }
  grep -q '^1: .*the context holds.* (limit)$' "$work/out" && grep -q '^2: .' "$work/out" ||
    { cat "$work/out"; return 1; }
}
check "batch answers all, with figures" answers_all
check "batch says which question is too long" names_the_row

# --- examples/host.c ---

two_states() {
  "$BUILD/examples/host" $tiny > "$work/out" 2>&1 || { cat "$work/out"; return 1; }
  [ "$(grep -c '^one: [0-9]* [0-9 ]*$' "$work/out")" = 3 ] || { echo "not three answers"; return 1; }
  [ "$(grep '^one: [0-9]* [0-9 ]*$' "$work/out" | sort -u | wc -l)" = 1 ] || { echo "the first wavers"; return 1; }
  one=$(sed -n 's/^one: \([0-9]* [0-9 ]*\)$/\1/p' "$work/out" | head -n 1)
  two=$(sed -n 's/^two: \([0-9]* [0-9 ]*\)$/\1/p' "$work/out")
  [ "$one" != "$two" ] || { echo "both states say the same"; return 1; }
  grep -q '^one: 1 threads, [1-9]' "$work/out" || { echo "the first has not its one thread"; return 1; }
  grep -q '^two: 2 threads, 0 bytes' "$work/out" || { echo "the second holds memory after its close"; return 1; }
  [ "$(grep -c '^one: 1 threads' "$work/out")" = 2 ] || return 1
  [ "$(grep '^one: 1 threads' "$work/out" | sort -u | wc -l)" = 1 ] || { echo "the first feels the second"; return 1; }
}
check "two states in one program share nothing" two_states

# --- the stock interpreter ---

if [ -n "$SANITIZE" ]; then
  skip "moonlet in stock lua5.4" "the interpreter does not bring the sanitizer"
else
  stock() { LUA_PATH=';' LUA_CPATH="$BUILD/?.so" $LUA "$@"; }
  generates() {
    MODEL=$tiny stock -e 'local ml = require "moonlet"
      local model <close> = assert(ml.load(os.getenv "MODEL"))
      local _, result = model:complete({90, 14, 79, 59, 97, 59}, {max_tokens = 8, ignore_eos = true})
      local ids = table.concat(result.ids, " ")
      assert(ids == "21 111 12 47 58 14 14 78", ids)'
  }
  one_table() {
    stock -e 'local core, ml = require "moonlet.core", require "moonlet"
      assert(ml == core.ops and ml == require "moonlet.init" and require "moonlet.nn".Linear)'
  }
  in_a_coroutine() {
    stock -e 'local co = coroutine.wrap(function() return require "moonlet" end)
      local ml = co() co = nil collectgarbage()
      assert(ml.ones{3}:sum():item() == 3)'
  }
  leaves_at_exit() {
    MODEL=$tiny stock -e 'local ml = require "moonlet" x = ml.ones{10} + 1 x:tolist()
      model = assert(ml.load(os.getenv "MODEL"))
      for token in model:generate({1, 2, 3}, {max_tokens = 4}) do first = first or token break end
      os.exit(true, true)'
  }
  check "stock lua5.4 generates" generates
  check "one table under all names" one_table
  check "required in a coroutine" in_a_coroutine
  check "open models at exit" leaves_at_exit
fi
exit $failures
