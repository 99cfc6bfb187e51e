#!/bin/sh
# Builds llama.cpp, the engine that `make bench` compares with, from the source package of llama-cpp-python, which
# carries it.
#
#     tools/build_peer.sh DIR     afterwards DIR/bin/llama-bench, llama-completion and llama-perplexity
#
# `make bench` looks for it in build-peer.
#
# Needs python3 with pip and venv, cmake, ninja and a C++ compiler; about 250 MB and a quarter of an hour on two cores.
# JOBS (all cores) bounds the parallel compilations. Nothing of it becomes part of this project.
set -eu

VERSION=0.3.36
TARGETS="llama-bench llama-completion llama-perplexity"

[ $# -eq 1 ] || { echo "usage: tools/build_peer.sh DIR" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}

done_already=yes
for target in $TARGETS; do
  [ -x "$dir/bin/$target" ] || done_already=no
done
[ "$done_already" = no ] || { echo "$dir/bin is there already" >&2; exit 0; }

source="$dir/source-$VERSION"
if [ ! -f "$source/CMakeLists.txt" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # pip asks the package's build backend for its metadata even when it only downloads.
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q scikit-build-core
  (cd "$work" && venv/bin/pip download -q --no-deps --no-build-isolation --no-binary :all: "llama-cpp-python==$VERSION")
  mkdir "$work/unpacked"
  tar xzf "$work"/llama_cpp_python-"$VERSION".tar.gz -C "$work/unpacked" --strip-components=1
  rm -rf "$source" "$work/unpacked/vendor/llama.cpp/.git"    # a submodule's, of a repository that is not there
  mv "$work/unpacked/vendor/llama.cpp" "$source"
fi

cmake -S "$source" -B "$dir/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF \
  -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF >"$dir/cmake.log"
# shellcheck disable=SC2086   # a list of targets
ninja -C "$dir/build" -j "$jobs" $TARGETS >"$dir/build.log" || { tail -n 30 "$dir/build.log" >&2; exit 1; }
mkdir -p "$dir/bin"
for target in $TARGETS; do
  cp "$dir/build/bin/$target" "$dir/bin/$target"
done
echo "$dir/bin: $TARGETS"
