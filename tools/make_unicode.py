#!/usr/bin/env python3
"""Writes src/text/unicode_data.inc: what the reference tokenizer library believes about every code point.

    python3 tools/make_unicode.py > src/text/unicode_data.inc

The `tokenizers` package is built from several Unicode libraries of different versions (its regular expressions know
Unicode 16, its normalisers an older one, its character methods a newer one), so no single version of the Unicode data
files describes it. This script asks the package itself, code point by code point, and stores the answers as ranges.
Python's own unicodedata is only a hint for combining classes; each is confirmed by how the normaliser orders marks.
"""

import itertools
import sys
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, POINTS))
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs Cn".split()
SCRIPTS = "Han Hiragana Katakana Hangul Bopomofo Latin Greek Cyrillic Arabic Hebrew Devanagari Thai".split()

nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
nfkc, nfkd = normalizers.NFKC().normalize_str, normalizers.NFKD().normalize_str


def matched(pattern):
    """The code points that a one-character regular expression matches."""
    kept = set()
    for piece, _ in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(TEXT):
        kept.update(map(ord, piece))
    return {c for c in POINTS if c not in kept}


def isolated(pre_tokenizer):
    """The code points that a pre-tokeniser cuts out of the middle of a word."""
    return {c for c in POINTS if len(pre_tokenizer.pre_tokenize_str("a" + chr(c) + "a")) == 3}


def edges(points):
    """Sorted code points where membership begins or ends."""
    out = []
    for c in sorted(points):
        if out and out[-1] == c:
            out[-1] = c + 1
        else:
            out += [c, c + 1]
    return out


def emit(kind, name, values, per_line=14):
    values = list(values)
    print(f"static const {kind} {name}[] = {{")
    for i in range(0, len(values), per_line):
        print("    " + " ".join(f"{v:#x}," for v in values[i : i + per_line]))
    print("};")


def runs(value_of, shift):
    """(first code point << shift | value) wherever the value changes."""
    out, last = [], None
    for c in range(0x110000):
        value = value_of(c)
        if value != last:
            out.append(c << shift | value)
            last = value
    return out


def emit_categories():
    category = {}
    for index, name in enumerate(CATEGORIES):
        if name == "Cs":
            category.update({c: index for c in range(0xD800, 0xE000)})
        else:
            category.update({c: index for c in matched(r"\p{%s}" % name)})
    print("/* General categories: code point << 5 | index into category_names, to the next entry. */")
    print("static const char category_names[][3] = {" + ", ".join(f'"{n}"' for n in CATEGORIES) + "};")
    emit("uint32_t", "category_runs", runs(category.__getitem__, 5))


def emit_sets():
    regex_word = matched(r"\w")
    word = isolated_word = {
        c for c in POINTS if len(pre_tokenizers.Whitespace().pre_tokenize_str("!" + chr(c) + "!")) == 3
    }
    sets = {
        "white_space": matched(r"\s"),
        "regex_word": regex_word,
        "word_difference": regex_word ^ isolated_word,
        "numeric": isolated(pre_tokenizers.Digits(individual_digits=True)),
        "punctuation": isolated(pre_tokenizers.Punctuation()),
        "accent": {c for c in POINTS if normalizers.StripAccents().normalize_str(chr(c)) == ""},
    }
    assert sets["white_space"] == {c for c in POINTS if normalizers.Strip().normalize_str(chr(c)) == ""}
    assert matched(r"\d") == matched(r"\p{Nd}") and word
    for name in SCRIPTS:
        sets["script_" + name.lower()] = matched(r"\p{%s}" % name)
    print("/* Sets: code points where membership begins and ends, in turn. */")
    for name, points in sets.items():
        emit("uint32_t", name, edges(points))


def combining_classes():
    """Class by code point, confirmed against a representative of every other class."""
    top = "\u0345"  # class 240, the highest that reorders
    marks = [c for c in POINTS
             if unicodedata.combining(chr(c)) and (c == 0x345 or nfd(top + chr(c)) != nfd(top) + chr(c))]
    others = [c for c in POINTS if nfd(top + chr(c))[0] != top and nfd(chr(c)) == chr(c) and c not in set(marks)]
    assert not others, [hex(c) for c in others]
    classes = {c: unicodedata.combining(chr(c)) for c in marks if nfd(chr(c)) == chr(c)}
    representatives = {k: min(c for c in classes if classes[c] == k) for k in set(classes.values())}
    for c, k in classes.items():
        for other, r in representatives.items():
            assert (nfd(chr(r) + chr(c)) == chr(c) + chr(r)) == (k < other) or c == r, (hex(c), k, other)
    return classes


def emit_normal_forms():
    hangul = range(0xAC00, 0xD7A4)
    classes = combining_classes()
    canonical = {c: nfd(chr(c)) for c in POINTS if c not in hangul and nfd(chr(c)) != chr(c)}
    compatible = {c: nfkd(chr(c)) for c in POINTS if c not in hangul and nfkd(chr(c)) != nfd(chr(c))}
    pairs = {}
    for c, parts in canonical.items():
        if nfc(chr(c)) != chr(c):
            continue
        first, second = nfc(parts[:-1]), parts[-1]
        assert len(first) == 1 and nfc(first + second) == chr(c), hex(c)
        pairs[ord(first), ord(second)] = c
    seconds = {second for _, second in pairs} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    active = seconds | set(classes) | {c for c in POINTS if nfc(chr(c)) != chr(c)}
    assert min(active) >= 0x300

    pool = ""
    for parts in sorted(itertools.chain(canonical.values(), compatible.values()), key=len, reverse=True):
        if parts not in pool:
            pool += parts
    assert len(pool) < 1 << 16 and max(map(len, compatible.values())) < 32
    print("/* Decompositions, fully expanded: a sorted list of code points, "
          "and beside it place << 5 | length in the pool. */")
    for name, table in (("canonical", canonical), ("compatible", compatible)):
        emit("uint32_t", name + "_points", sorted(table))
        emit("uint32_t", name + "_places", (pool.index(table[c]) << 5 | len(table[c]) for c in sorted(table)))
    emit("uint32_t", "decomposition_pool", map(ord, pool))
    print("/* Primary composites: first, second, composite; sorted by the first two. */")
    emit("uint32_t", "compositions", itertools.chain.from_iterable((*p, pairs[p]) for p in sorted(pairs)), 15)
    print("/* Canonical combining classes: code point << 8 | class, to the next entry. */")
    emit("uint32_t", "class_runs", runs(lambda c: classes.get(c, 0), 8))
    print("/* What NFC may change, alone or beside another: everything else is inert. */")
    emit("uint32_t", "nfc_active", edges(active))


def emit_lower():
    lower = normalizers.Lowercase().normalize_str
    out = []  # first, last, step, difference
    for c in POINTS:
        to = lower(chr(c))
        if to == chr(c) or c == 0x130:  # I with a dot above gives two characters; the code knows it
            continue
        assert len(to) == 1, hex(c)
        difference = ord(to) - c
        if out and out[-1][3] == difference and c - out[-1][1] in (1, 2):
            step = c - out[-1][1]
            if out[-1][2] in (0, step):
                out[-1][1:3] = [c, step]
                continue
        out.append([c, c, 0, difference])
    print("/* Lower case: first, last, step, difference. */")
    print("static const int32_t lower_runs[][4] = {")
    for first, last, step, difference in out:
        print(f"    {{{first:#x}, {last:#x}, {step or 1}, {difference}}},")
    print("};")


def main():
    print("/* unicode_data.inc: written by tools/make_unicode.py; do not edit.")
    print(f" * Source: the behaviour of tokenizers {tokenizers.__version__}, code point by code point. */")
    emit_categories()
    emit_sets()
    emit_normal_forms()
    emit_lower()


if __name__ == "__main__":
    sys.exit(main())
