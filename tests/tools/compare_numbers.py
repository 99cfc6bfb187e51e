#!/usr/bin/env python3
"""Compares moonlet's operations on tensors with NumPy, over many cases.

    python3 tests/tools/compare_numbers.py build/moonlet [-n 200000] [--seed 1] [--isa ref,avx2,avx512] [--only WORD]

A case is a Lua expression that tests/tools/number_driver.lua evaluates; number_cases.py makes them and number_oracle.py
says what NumPy gives, and which differences are meant (docs/lua/numpy.md, whose entries it must know); those are
counted. All others are mismatches: each kind is shown with its shortest example, and the exit status is 1. Needs numpy
and ml_dtypes.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import number_cases  # noqa: E402
import numpy as np  # noqa: E402
from number_oracle import ERROR, LATE, MEANT, Expected  # noqa: E402
from number_values import DTYPES, NAMES, is_float  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVER = os.path.join(HERE, "number_driver.lua")
PAGE = os.path.join(HERE, "..", "..", "docs", "lua", "numpy.md")
CHUNK = 20000


def drive(moonlet, isa, lines):
    """The driver's line for each expression."""
    with tempfile.TemporaryDirectory() as folder:
        given, gave = os.path.join(folder, "in"), os.path.join(folder, "out")
        with open(given, "w") as file:
            file.write("".join(line + "\n" for line in lines))
        environment = dict(os.environ, MOONLET_ISA=isa)
        run = subprocess.run([moonlet, DRIVER, given, gave], env=environment, stderr=subprocess.PIPE, text=True)
        with open(gave) as file:
            answers = file.read().splitlines()
    if len(answers) != len(lines):
        at = lines[len(answers)] if len(answers) < len(lines) else "?"
        sys.exit(f"{isa}: the driver ended at case {len(answers)}: {at}\n{run.stderr}")
    return answers


def parse(text):
    """One result of the driver: an array, or a plain value."""
    kind, _, rest = text.partition(";")
    if kind in DTYPES:
        shape, _, data = rest.partition(";")
        sizes = [int(n) for n in shape.split(",")] if shape else []
        return np.frombuffer(bytes.fromhex(data), DTYPES[kind]).reshape(sizes)
    return text


def ordered(array):
    """Floats as integers in the same order, one apart where the floats are neighbours."""
    width = array.dtype.itemsize * 8
    bits = array.view(f"i{array.dtype.itemsize}").astype(np.int64)
    return np.where(bits < 0, np.int64(-(2 ** (width - 1))) - bits, bits)


def from_ordered(index, dtype):
    """The floats that `ordered` numbers so, infinities at the ends."""
    width = dtype.itemsize * 8
    low = np.int64(-(2 ** (width - 1)))
    infinite = int(ordered(np.array(np.inf, dtype=dtype)))
    index = np.clip(index, -infinite, infinite)
    return np.where(index < 0, low - index, index).astype(f"i{dtype.itemsize}").view(dtype)


def distance(got, want):
    """Ulps between two arrays of one float dtype; 0 for a NaN and a NaN, many for one alone."""
    a, b = ordered(got), ordered(want)
    apart = np.abs(a.astype(np.longdouble) - b.astype(np.longdouble))  # float64 does not hold all of 64 bits
    nan_a, nan_b = np.isnan(got.astype(np.float64)), np.isnan(want.astype(np.float64))
    return np.where(nan_a | nan_b, np.where(nan_a & nan_b, 0.0, np.inf), apart)


def close(got, want, expected):
    """Entry by entry: whether a value is within what is expected."""
    with np.errstate(all="ignore"):
        if not is_float(NAMES[got.dtype]):
            far = np.abs(got.astype(np.longdouble) - want.astype(np.longdouble))
            return (got == want) | (far <= expected.slack)
        if expected.ulps is None:
            same = distance(got, want) == 0
            same &= (np.signbit(got) == np.signbit(want)) | (got != got) | bool(expected.either_zero)
            return same
        off = np.abs(got.astype(np.longdouble) - want.astype(np.longdouble))
        return (distance(got, want) <= expected.ulps) | (off <= expected.slack)


def available(moonlet, isa):
    """Whether the processor, and this build, have the instruction set."""
    environment = dict(os.environ, MOONLET_ISA=isa)
    command = [moonlet, "-e", 'require "moonlet".zeros {1}:item()']
    return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL).returncode == 0


def check_page():
    """The page that users read lists what the oracle calls meant, and nothing else."""
    with open(PAGE) as file:
        listed = re.findall(r"^\*\*(.+?)\.\*\*", file.read(), re.MULTILINE)
    if listed != list(MEANT.values()):
        sys.exit(f"docs/lua/numpy.md lists {listed}, number_oracle.py {list(MEANT.values())}")


class Kind:
    """Mismatches of one operation in one respect: how many, where, and the shortest."""

    def __init__(self):
        self.count, self.isas, self.names = 0, collections.Counter(), collections.Counter()
        self.lua, self.given, self.want, self.isa = "", "", "", ""


class Record:
    """What has been seen: cases, meant differences, the largest distances, mismatches by kind."""

    def __init__(self):
        self.cases, self.entries = 0, 0
        self.meant = collections.Counter()
        self.ulps = collections.Counter()
        self.bad = {}

    def mismatch(self, case, kind, isa, given, want):
        seen = self.bad.setdefault((case.family, kind), Kind())
        seen.count += 1
        seen.isas[isa] += 1
        seen.names["/".join(case.names)] += 1
        if not seen.lua or len(case.lua) < len(seen.lua):
            seen.lua, seen.given, seen.want, seen.isa = case.lua, given, want, isa

    def check(self, case, isa, answer):
        if case.results in (ERROR, LATE):
            here = answer.startswith(("!usage;", "!mismatch;"))
            there = case.results == LATE and answer.startswith("!!usage;")
            if not answer.startswith("!"):
                self.mismatch(case, "no error", isa, shown(answer), case.results)
            elif not here and not there:
                self.mismatch(case, "error elsewhere", isa, answer, case.results)
            return
        if answer.startswith("!"):
            return self.mismatch(case, "error", isa, answer, " ".join(describe(e) for e in case.results))
        parts = answer.split("|") if "[" not in answer else [answer]
        if len(parts) != len(case.results):
            return self.mismatch(case, "count", isa, answer, len(case.results))
        for part, expected in zip(parts, case.results):
            kind = self.check_one(case, part, expected)
            if kind:
                return self.mismatch(case, kind, isa, shown(part), describe(expected))

    def check_one(self, case, text, expected):
        got, want = parse(text), expected.value if isinstance(expected, Expected) else expected
        if isinstance(want, str) or isinstance(got, str):
            return None if isinstance(want, str) and got == want else "value"
        if got.dtype != want.dtype:
            return f"dtype {NAMES[got.dtype]} for {NAMES.get(want.dtype, want.dtype)}"
        if got.shape != want.shape:
            return "shape"
        self.entries += got.size
        right = close(got, want, expected)
        if expected.other is not None:
            right = right | close(got, expected.other, expected)
        if expected.ulps is not None and got.size and not np.any(expected.slack):
            far = float(np.max(np.where(right, distance(got, want), 0)))
            key = (case.family, NAMES[got.dtype])
            self.ulps[key] = max(self.ulps[key], far)
        return None if np.all(right) else "value"


def shown(text):
    got = parse(text) if text[0] not in "[!" and "|" not in text else text
    return got if isinstance(got, str) else describe(Expected(got))


def describe(expected):
    value = expected.value if isinstance(expected, Expected) else expected
    if isinstance(value, str):
        return value
    text = str(value.tolist() if value.dtype.kind in "biuf" else value.astype(np.float64).tolist())
    return f"{NAMES.get(value.dtype, value.dtype)}{tuple(value.shape)} {text[:160]}"


def report(record, show):
    for name, heading in MEANT.items():
        print(f"  meant: {record.meant[name]:7d}  {heading}")
    order = sorted(record.bad.items(), key=lambda item: -item[1].count)
    for (family, what), kind in order[:show]:
        names = " ".join(name for name, _ in kind.names.most_common(8))
        isas = ", ".join(f"{isa} {count}" for isa, count in kind.isas.items())
        print(f"  {kind.count} mismatches in {family} ({what}); {isas}; {names}")
        print(f"    {kind.lua[:300]}\n    on {kind.isa} {kind.given}\n    NumPy {kind.want}")
    if len(order) > show:
        print(f"  ... and {len(order) - show} kinds more")
    return sum(kind.count for kind in record.bad.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moonlet")
    parser.add_argument("-n", type=int, default=200000, help="cases at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--isa", default="ref,avx2,avx512", help="instruction sets, each with all cases")
    parser.add_argument("--only", help="families and operations that contain this word")
    parser.add_argument("--show", type=int, default=40, help="kinds of mismatches that are shown")
    parser.add_argument("--ulps", action="store_true", help="print the largest distances that were seen")
    options = parser.parse_args()
    check_page()
    isas = [isa for isa in options.isa.split(",") if available(options.moonlet, isa)]
    if not isas:
        sys.exit(f"{options.moonlet} runs on none of {options.isa}")
    record = Record()
    for cases in number_cases.chunks(options.n, options.seed, options.only, CHUNK):
        record.cases += len(cases)
        for case in cases:
            record.meant.update(case.meant)
        for isa in isas:
            for case, answer in zip(cases, drive(options.moonlet, isa, [c.lua for c in cases])):
                record.check(case, isa, answer)
    bad = report(record, options.show)
    if options.ulps:
        for (family, dtype), ulps in sorted(record.ulps.items()):
            print(f"  {family} {dtype}: {ulps:g} ulps")
    print(f"{record.cases} cases on each of {', '.join(isas)}, {record.entries} values compared, {bad} mismatches")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
