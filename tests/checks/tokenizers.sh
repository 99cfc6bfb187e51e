#!/bin/sh
# tokenizers.sh: five tokenizers against the Python package tokenizers: 120,000 strings, and the speed of encoding
#
#   MOONLET_TEST_TOKENIZERS=FOLDER make check-tokenizers
#
# FOLDER holds gemma3, gpt2, llama3_1, qwen2_5, qwen3 (or others), each a folder with tokenizer.json or a .tar.xz of it.
# The reference is installed by pip into $BUILD/venv-tokenizers once; PYTHON names an interpreter that has it already.
# STRINGS (120000) is their number altogether.
set -eu
VERSION=0.23.3   # of tokenizers; Unicode tables and expected values of this tree are of this one
build=${BUILD:-build}
folder=${MOONLET_TEST_TOKENIZERS-}

if [ -z "$folder" ]; then
  echo "check-tokenizers: MOONLET_TEST_TOKENIZERS names no folder; set it to one that holds tokenizers:" >&2
  echo "  NAME/tokenizer.json with NAME/tokenizer_config.json, or NAME.tar.xz, for each of them" >&2
  exit 1
fi
[ -d "$folder" ] || { echo "check-tokenizers: $folder: no such folder" >&2; exit 1; }

python=${PYTHON-}
if [ -z "$python" ]; then
  venv=$build/venv-tokenizers
  python=$venv/bin/python
  if [ ! -e "$venv/$VERSION.done" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" ||
      { echo "check-tokenizers: python3 cannot make a venv (apt-get install python3-venv)" >&2; exit 1; }
    "$python" -m pip install -q --disable-pip-version-check "tokenizers==$VERSION"
    : > "$venv/$VERSION.done"
  fi
fi

make --no-print-directory BUILD="$build" "$build/tests/tools/tokenizer_driver"
exec "$python" tests/tools/compare_tokenizers.py "$build/tests/tools/tokenizer_driver" "$folder" \
  -n "${STRINGS:-120000}" --speed
