# check.sh: what the tests in sh share; each begins with `. tests/check.sh` and ends with `exit $failures`.
# BUILD and LUA come from the Makefile.
BUILD=${BUILD:-build} LUA=${LUA:-lua5.4}
failures=0

check() { # check NAME COMMAND...: one line, with the command's output as the reason of a failure
  name=$1
  shift
  if output=$("$@" 2>&1); then
    echo "ok - $name"
  else
    echo "not ok - $name: $(echo "$output" | tail -n 5 | tr '\n' ' ')"
    failures=$((failures + 1))
  fi
}
skip() { echo "skip - $1: $2"; }
