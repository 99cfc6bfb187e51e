# test_kernels.sh: machine code of kernels that no GPU would run: nvcc 13.0 makes such of some copies to shared memory
# (gpu/common.cuh), and says nothing. What copies are cached by is a pair of registers, which begins at an even one.
. tests/check.sh

is_sound() {
  cuobjdump -sass "$1" > "$BUILD/sass.txt" && grep -q 'Function : cuda_' "$BUILD/sass.txt" || return 1
  ! grep -m 1 'desc\[UR[0-9]*[13579]\]' "$BUILD/sass.txt"
}

images=$(ls "$BUILD"/obj/src/gpu/*.fatbin 2> /dev/null)
if [ -z "$images" ]; then
  skip "machine code of kernels" "this build has none"
elif ! command -v cuobjdump > /dev/null; then
  skip "machine code of kernels" "no cuobjdump here"
else
  for image in $images; do check "$(basename "$image" .fatbin): machine code" is_sound "$image"; done
fi
rm -f "$BUILD/sass.txt"
exit $failures
