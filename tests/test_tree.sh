# test_tree.sh: the tree keeps its own rules (tools/lint.lua).
if output=$(${LUA:-lua5.4} tools/lint.lua); then
  echo "ok - $output"
else
  echo "not ok - the tree keeps its own rules:"
  echo "$output"
  exit 1
fi
