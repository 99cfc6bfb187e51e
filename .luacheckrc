std = "lua54"
max_line_length = 120
-- What the command gives to scripts and to the REPL.
read_globals = {"ml"}
files["tests/lua"] = {globals = {"ml"}}
exclude_files = {"build*", "checkpoints"}
