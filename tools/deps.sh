#!/bin/sh
# deps.sh: what moonlet needs from outside: a compiler, four libraries, Lua and pip.
#
#   tools/deps.sh check     names what is missing for a build; status 1 when anything is
#   tools/deps.sh install   installs what is missing for build, demo and tests (Debian 12's apt-get, sudo where needed)
#   tools/deps.sh lint      the same for `make lint`
#
# CC and LUA name the compiler and the interpreter, as in the Makefile.
set -eu

missing=''  # Debian packages
need() { # need PACKAGE COMMAND...: PACKAGE is missing when COMMAND fails
  package=$1
  shift
  "$@" >/dev/null 2>&1 || missing="$missing $package"
}
has_command() { command -v "$1"; }
compiles() { echo '#include <stdio.h>' | $cc -E -x c - ; }

cc=${CC:-gcc}
case $cc in
  *clang*) compiler=$(basename "${cc##* }") ;;
  *) compiler=gcc ;;
esac

build_needs() {
  need "$compiler" has_command "${cc##* }"
  need libc6-dev compiles
  need make has_command make
  need pkg-config has_command pkg-config
  need lua5.4 has_command "${LUA:-lua5.4}"
  need liblua5.4-dev pkg-config --exists lua5.4
  need libjson-c-dev pkg-config --exists json-c
  need libpcre2-dev pkg-config --exists libpcre2-8
  need libreadline-dev pkg-config --exists readline
}
fetch_needs() {
  need python3-pip python3 -c 'import pip'
  need xz-utils has_command xz
}
lint_needs() {
  need lua5.4 has_command "${LUA:-lua5.4}"
  need lua-check has_command luacheck
  need clang-format has_command clang-format
}

install_missing() {
  [ -n "$missing" ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "deps: missing (names of Debian packages):$missing" >&2
    echo "deps: there is no apt-get here; install them by your system's own means, then run make again" >&2
    exit 1
  fi
  as_root=''
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "deps: missing:$missing" >&2
      echo "deps: installing needs root, and there is no sudo; as root: apt-get install$missing" >&2
      exit 1
    fi
    as_root=sudo
  fi
  echo "deps: installing$missing" >&2
  # shellcheck disable=SC2086  # the names are words
  $as_root apt-get update -q >&2 &&
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q -o Dpkg::Use-Pty=0 --no-install-recommends $missing >&2 || {
    echo "deps: apt-get failed (see above); wanted:$missing" >&2
    exit 1
  }
}

case "${1:-}" in
  check)
    build_needs
    [ -z "$missing" ] && exit 0
    echo "moonlet: missing for the build (names of Debian packages):$missing" >&2
    echo "moonlet: 'make deps' installs them" >&2
    exit 1
    ;;
  install) build_needs; fetch_needs; install_missing ;;
  lint) lint_needs; install_missing ;;
  *) echo "usage: tools/deps.sh check|install|lint" >&2; exit 2 ;;
esac
