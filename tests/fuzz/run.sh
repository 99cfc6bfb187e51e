#!/bin/sh
# tests/fuzz/run.sh [SECONDS [TARGET ...]]: builds fuzz_TARGET.c with clang's libFuzzer, ASan and UBSan and runs each
# for SECONDS (60) under build-fuzz/, on seeds of tests/fuzz/make_seeds.lua. `make fuzz` runs it, in the repository's
# root. The status is not 0 when a target fails; its input is then build-fuzz/TARGET/crash-*.
set -eu
seconds=${1:-60}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- gguf safetensors json tokenizer
out=${BUILD:-build}-fuzz
mkdir -p "$out"
"${LUA:-lua5.4}" tests/fuzz/make_seeds.lua "$out/seeds"
for target in "$@"; do
  mkdir -p "$out/$target/corpus" "$out/seeds/$target"
  more= dictionary=
  if [ "$target" = tokenizer ]; then
    more="src/text/*.c $(pkg-config --libs libpcre2-8)"
    dictionary=-dict=tests/fuzz/tokenizer.dict
    cp tests/fuzz/seeds/tokenizer/* "$out/seeds/tokenizer/"
  fi
  clang -g -O1 -std=c17 -D_GNU_SOURCE -Isrc -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
    "tests/fuzz/fuzz_$target.c" src/io/*.c src/base/*.c src/tensor/dtype.c $more \
    $(pkg-config --cflags --libs json-c) -lm -pthread -o "$out/$target/fuzz"
  "$out/$target/fuzz" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=3000 -max_len=65536 \
    -print_final_stats=1 $dictionary -artifact_prefix="$out/$target/" \
    "$out/$target/corpus" "$out/seeds/$target" >"$out/$target/log" 2>&1 || {
    tail -40 "$out/$target/log"
    exit 1
  }
  inputs=$(grep number_of_executed_units "$out/$target/log" | tr -s ' ' | cut -d' ' -f2)
  printf 'ok - fuzz_%s: %s inputs\n' "$target" "$inputs"
done
