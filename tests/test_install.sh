# test_install.sh: what the build leaves behind is what it says: exports, links, an installation that works elsewhere.
# CC and SANITIZE come from the Makefile.
CC=${CC:-gcc}
unset MAKEFLAGS MFLAGS MAKELEVEL # a make of our own, not a part of the one that runs the tests
. tests/check.sh

exported() { nm -D --defined-only "$1" | awk '{ print $3 }' | sort -u; }
declared() { sed -n 's/^ML_API .*[ *]\(ml_[a-z0-9_]*\)(.*/\1/p' src/moonlet.h | sort -u; }
needed() { objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }'; }

only_public() {
  strays=$(exported "$1" | grep -v -e '^ml_' -e '^luaopen_moonlet$' -e '^luaopen_moonlet_core$')
  [ -z "$strays" ] || { echo "exports $strays"; return 1; }
  exported "$1" | grep -qx luaopen_moonlet || { echo "does not export luaopen_moonlet"; return 1; }
}
as_declared() {
  declared > "$BUILD/declared.txt"
  exported "$1" | grep '^ml_' > "$BUILD/exported.txt"
  [ -s "$BUILD/declared.txt" ] || { echo "moonlet.h declares nothing as ML_API"; return 1; }
  diff "$BUILD/declared.txt" "$BUILD/exported.txt"
}
links_no() { ! needed "$1" | grep "$2"; }

up_to_date() { make -q all || { echo "a second make has work to do"; make -n all | head -5; return 1; }; }
header_rebuilds() { make -n V=1 -W src/base/status.h "$BUILD/libmoonlet.a" | grep -q ' src/base/status.c '; }
flags_rebuild() {
  ! make -q CPPFLAGS=-DOTHER "$BUILD/libmoonlet.a" &&
    make -n V=1 CPPFLAGS=-DOTHER "$BUILD/libmoonlet.a" | grep -q 'DOTHER.* -c '
}

check "a second make does nothing" up_to_date
check "a changed header rebuilds what includes it" header_rebuilds
check "changed flags rebuild" flags_rebuild
if [ -n "$SANITIZE" ]; then
  skip "exports and installation" "a sanitizer's build is not for installing"
  exit $failures
fi
check "libmoonlet.so exports its interface alone" only_public "$BUILD/libmoonlet.so"
check "moonlet.so exports its interface alone" only_public "$BUILD/moonlet.so"
check "libmoonlet.so exports what moonlet.h declares" as_declared "$BUILD/libmoonlet.so"
check "libmoonlet.so does not need readline" links_no "$BUILD/libmoonlet.so" readline
check "moonlet.so does not need readline" links_no "$BUILD/moonlet.so" readline
check "moonlet.so leaves Lua to the interpreter" links_no "$BUILD/moonlet.so" liblua

root=$(pwd)/$BUILD/test-install
prefix=/opt/moonlet
rm -rf "$root"
check "make install" make install DESTDIR="$root" PREFIX=$prefix
lib=$root$prefix/lib
cat > "$BUILD/consumer.c" <<'C'
#include <moonlet.h>
#include <string.h>
int main(void) { return strcmp(ml_status_name(ML_CORRUPT), "corrupt") != 0; }
C
pc() { PKG_CONFIG_PATH=$lib/pkgconfig pkg-config --define-variable=prefix="$root$prefix" "$@" moonlet; }
shared_consumer() {
  # shellcheck disable=SC2046
  $CC "$BUILD/consumer.c" -o "$BUILD/consumer" $(pc --cflags --libs) && LD_LIBRARY_PATH=$lib "$BUILD/consumer"
}
static_consumer() {
  # shellcheck disable=SC2046
  $CC "$BUILD/consumer.c" -o "$BUILD/consumer" $(pc --cflags) "$lib/libmoonlet.a" \
    $(pc --static --libs | tr ' ' '\n' | grep -v -e -lmoonlet) && "$BUILD/consumer"
}
stock() {
  share=$root$prefix/share/lua/5.4
  LUA_PATH="$share/?.lua;$share/?/init.lua" LUA_CPATH="$lib/lua/5.4/?.so" $LUA "$@"
}
in_stock_lua() {
  stock -e 'local ml = require "moonlet" assert(type(ml.load) == "function" and ml.zeros{2}.size == 2)
    assert(ml == require "moonlet.init")'
}
part_first_in_stock_lua() {
  stock -e 'local llama = require "moonlet.models.llama"
    assert(llama.model_types and require "moonlet".zeros{2}.size == 2)'
}
built_in_stock_lua() {
  LUA_PATH=';' LUA_CPATH="$BUILD/?.so" $LUA -e 'local ml = require "moonlet"; assert(ml.zeros{2}.size == 2)'
}
in_cxx() {
  printf '%s\n' '#include <moonlet.h>' 'int main() { ml_generate_options o = {}; return o.struct_size != 0; }' |
    c++ -x c++ -Wall -Wextra -Werror -Wno-missing-field-initializers -fsyntax-only $(pc --cflags) -
}
installed_command() { (cd / && "$root$prefix/bin/moonlet" -e 'assert(require "moonlet".zeros{2}.size == 2)'); }
check "a C program builds and runs with pkg-config, shared" shared_consumer
check "a C program builds and runs with pkg-config, static" static_consumer
if command -v c++ > /dev/null; then
  check "the header is C++ too" in_cxx
else
  skip "the header is C++ too" "no C++ compiler"
fi
rooms_in_stock_lua() { # of the files, and of the copy inside the library
  text='local jinja = require "moonlet.templates.jinja"
    assert(assert(jinja.compile("{{ x|upper }}")):render {x = "moon"} == "MOON")
    assert(require "moonlet.templates.jinja.unicode_data")'
  stock -e "$text" && LUA_PATH=';' LUA_CPATH="$BUILD/?.so" $LUA -e "require 'moonlet' $text"
}
check "stock lua5.4 requires the installed module" in_stock_lua
check "stock lua5.4 requires a part with rooms of its own" rooms_in_stock_lua
check "stock lua5.4 requires a part of it first" part_first_in_stock_lua
check "stock lua5.4 requires build/moonlet.so alone" built_in_stock_lua
check "the installed command runs in another folder" installed_command
nothing_left() {
  make uninstall DESTDIR="$root" PREFIX=$prefix || return 1
  [ ! -e "$root$prefix" ] || { echo "left: $(find "$root$prefix")"; return 1; }
}
check "make uninstall leaves nothing" nothing_left

# A prefix of one's own, as README tells it.
own=$(pwd)/$BUILD/test-own
rm -rf "$own"
check "make install under a prefix of one's own" make install PREFIX="$own"
own_pc() { PKG_CONFIG_PATH=$own/lib/pkgconfig pkg-config "$@"; }
own_consumer() {
  # shellcheck disable=SC2046
  $CC examples/host.c -o "$BUILD/consumer" $(own_pc --cflags --libs moonlet lua5.4) \
    -Wl,-rpath,"$(own_pc --variable=libdir moonlet)" || return 1
  needed "$BUILD/consumer" | grep -q '^libmoonlet' || { echo "it does not need the library"; return 1; }
  (unset LD_LIBRARY_PATH; ldd "$BUILD/consumer") | grep "libmoonlet.* => $own/lib/"
}
own_lua() {
  LUA_PATH=';' LUA_CPATH="$own/lib/lua/5.4/?.so;;" $LUA -e 'local ml = require "moonlet"; assert(ml.zeros{2}.size == 2)'
}
own_nothing_left() {
  make uninstall PREFIX="$own" || return 1
  [ ! -e "$own" ] || { echo "left: $(find "$own")"; return 1; }
}
check "a host finds the library there by PKG_CONFIG_PATH and rpath" own_consumer
check "stock lua5.4 finds the module there by LUA_CPATH" own_lua
check "make uninstall leaves nothing there" own_nothing_left
exit $failures
