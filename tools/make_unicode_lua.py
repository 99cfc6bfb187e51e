#!/usr/bin/env python3
"""Writes lua/templates/jinja/unicode_data.lua: what Python's str methods know of characters, as compact tables.

Usage: python3 tools/make_unicode_lua.py > lua/templates/jinja/unicode_data.lua

The reference for chat templates is Python, so the tables are asked of Python itself; its Unicode version is
recorded. Sets are runs "gap,length,..." from code point 128 on (ASCII is tested directly); case maps are runs
"gap,count,stride,delta"; characters that map to several are listed.
"""
import sys
import textwrap
import unicodedata

POINTS = [c for c in range(128, 0x110000) if not 0xD800 <= c <= 0xDFFF]


def runs(test):
    out, at, start = [], 128, None
    for c in POINTS + [0x110001]:
        inside = c < 0x110000 and test(chr(c))
        if inside and start is None:
            start, last = c, c
        elif start is not None and (not inside or c != last + 1):
            out += [start - at, last - start + 1]
            at = last + 1
            start = c if inside else None
        if inside:
            last = c
    return out


def case_runs(change, unless=lambda c: c):
    pairs = []
    for c in POINTS:
        to = change(chr(c))
        if len(to) == 1 and to != unless(chr(c)):
            pairs.append((c, ord(to) - c))
    out, at, i = [], 128, 0
    while i < len(pairs):
        start, delta = pairs[i]
        best = (1, 1)
        for stride in (1, 2):
            n = 1
            while i + n < len(pairs) and pairs[i + n] == (start + n * stride, delta):
                n += 1
            if n > best[0]:
                best = (n, stride)
        n, stride = best
        out += [start - at, n, stride, delta]
        at = start + (n - 1) * stride + 1
        i += n
    return out


def specials(change):
    rows = []
    for c in POINTS:
        to = change(chr(c))
        if len(to) != 1:
            rows.append("[%d] = %s" % (c, '"%s"' % "".join("\\u{%X}" % ord(x) for x in to)))
    return rows


def emit(name, numbers):
    text = ",".join(map(str, numbers))
    lines = textwrap.wrap(text.replace(",", ", "), 104, break_long_words=False)
    lines = [line.replace(", ", ",") for line in lines]
    print(f"M.{name} =")
    print("\n".join('  "%s"%s' % (line, " .." if i + 1 < len(lines) else "") for i, line in enumerate(lines)))


def emit_map(name, rows):
    print(f"M.{name} = {{")
    for line in textwrap.wrap(", ".join(rows), 112, break_long_words=False):
        print("  " + line)
    print("}")


print("---Character tables of the template engine. Made by tools/make_unicode_lua.py from Unicode "
      f"{unicodedata.unidata_version}; not edited.")
print("local M = {}")
emit("printable", runs(str.isprintable))
emit("alpha", runs(str.isalpha))
emit("decimal", runs(str.isdecimal))
emit("digit", runs(str.isdigit))
emit("numeric", runs(str.isnumeric))
emit("lower", runs(str.islower))
emit("upper", runs(str.isupper))
emit("to_lower", case_runs(str.lower))
emit("to_upper", case_runs(str.upper))
emit("to_title", case_runs(str.title, str.upper))
emit_map("lower_special", specials(str.lower))
emit_map("upper_special", specials(str.upper))
emit_map("title_special", specials(str.title))
print("return M")
sys.exit(0)
