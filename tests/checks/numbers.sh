#!/bin/sh
# numbers.sh: operations on tensors against NumPy: 240,000 cases on each instruction set
#
#   make check-numbers
#
# The reference is installed by pip into $BUILD/venv-numbers once; PYTHON names an interpreter that has it already.
# CASES (240000) is how many there are at least, ISAS (ref,avx2,avx512) on which instruction sets, SEED (1) which ones.
set -eu
VERSIONS="numpy==2.4.6 ml_dtypes==0.6.0"
build=${BUILD:-build}

python=${PYTHON-}
if [ -z "$python" ]; then
  venv=$build/venv-numbers
  python=$venv/bin/python
  done=$venv/$(echo "$VERSIONS" | tr ' ' '+').done
  if [ ! -e "$done" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" ||
      { echo "check-numbers: python3 cannot make a venv (apt-get install python3-venv)" >&2; exit 1; }
    # shellcheck disable=SC2086 # two words
    "$python" -m pip install -q --disable-pip-version-check $VERSIONS
    : > "$done"
  fi
fi

exec "$python" tests/tools/compare_numbers.py "$build/moonlet" -n "${CASES:-240000}" --seed "${SEED:-1}" \
  --isa "${ISAS:-ref,avx2,avx512}"
