#!/bin/sh
# tests/fuzz/run.sh [SECONDS [TARGET ...]]: builds fuzz_TARGET.c with clang's libFuzzer, ASan and UBSan and runs each
# for SECONDS (60) under build-fuzz/, on seeds of tests/fuzz/make_seeds.lua. `make fuzz` runs it, in the repository's
# root. The status is not 0 when a target fails; its input is then build-fuzz/TARGET/crash-*.
set -eu
seconds=${1:-60}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- gguf safetensors json tokenizer template
build=${BUILD:-build}
out=$build-fuzz
mkdir -p "$out"
"${LUA:-lua5.4}" tests/fuzz/make_seeds.lua "$out/seeds"
for target in "$@"; do
  mkdir -p "$out/$target/corpus" "$out/seeds/$target"
  sources="src/io/*.c src/base/*.c src/tensor/dtype.c" libraries=json-c dictionary=
  case $target in
  tokenizer)
    sources="$sources src/text/*.c" libraries="json-c libpcre2-8"
    dictionary=-dict=tests/fuzz/tokenizer.dict
    cp tests/fuzz/seeds/tokenizer/* "$out/seeds/tokenizer/"
    ;;
  template) # what it looks for is in Lua: the library as it is
    make -s --no-print-directory BUILD="$build" "$build/libmoonlet.a"
    sources=$build/libmoonlet.a libraries="json-c libpcre2-8 lua5.4"
    ;;
  esac
  clang -g -O1 -std=c17 -D_GNU_SOURCE -Isrc -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
    "tests/fuzz/fuzz_$target.c" $sources $(pkg-config --cflags --libs $libraries) -lm -ldl -pthread \
    -o "$out/$target/fuzz"
  "$out/$target/fuzz" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=3000 -max_len=65536 \
    -print_final_stats=1 $dictionary -artifact_prefix="$out/$target/" \
    "$out/$target/corpus" "$out/seeds/$target" >"$out/$target/log" 2>&1 || {
    tail -40 "$out/$target/log"
    exit 1
  }
  inputs=$(grep number_of_executed_units "$out/$target/log" | tr -s ' ' | cut -d' ' -f2)
  printf 'ok - fuzz_%s: %s inputs\n' "$target" "$inputs"
done
