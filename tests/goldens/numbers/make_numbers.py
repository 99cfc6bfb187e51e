#!/usr/bin/env python3
"""Writes tests/goldens/numbers/cases.txt: a sample of compare_numbers.py's cases, with NumPy's results.

    python3 tests/goldens/numbers/make_numbers.py [-n 60000] [--seed 7]

Of every operation, and of every dtype with a partner of each kind, one case out of n, a short one. The format stands
in tests/goldens/README.md; tests/lua/test_numbers.lua reads it. Needs numpy and ml_dtypes.
"""

import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tools"))

import number_cases  # noqa: E402
import numpy as np  # noqa: E402
from compare_numbers import from_ordered, ordered  # noqa: E402
from number_oracle import ERROR, LATE, Expected  # noqa: E402
from number_values import DTYPES, INTS, NAMES, is_float  # noqa: E402

LONGEST, MOST = 84, 180  # characters of a line: as many values as fit into the one, nothing beyond the other


def bounds(expected):
    """The smallest and the largest value that are right, entry by entry; None where two answers lie apart."""
    want, ulps = expected.value, expected.ulps or 0
    slack = np.broadcast_to(np.asarray(expected.slack, np.longdouble), want.shape)
    wide = want.astype(np.longdouble)
    low = np.minimum(from_ordered(ordered(want) - ulps, want.dtype), (wide - slack).astype(want.dtype))
    high = np.maximum(from_ordered(ordered(want) + ulps, want.dtype), (wide + slack).astype(want.dtype))
    nan = want != want
    low, high = np.where(nan, want, low).astype(want.dtype), np.where(nan, want, high).astype(want.dtype)
    if expected.other is not None:
        other = expected.other.astype(np.longdouble)
        if np.any((other != wide) & ~(nan & (other != other)) & ~((low <= other) & (other <= high))):
            return None
    return low, high


def written(result):
    """One result as the file has it, or None where the file cannot say it."""
    if isinstance(result, str):
        return result
    want = result.value
    start = f"{NAMES[want.dtype]};{','.join(str(n) for n in want.shape)};"
    vague = result.ulps is not None or np.any(result.slack) or (result.either_zero and np.any(want == 0))
    if not vague or not is_float(NAMES[want.dtype]):
        return None if np.any(result.slack) else start + np.ascontiguousarray(want).tobytes().hex()
    both = bounds(result)
    return both and f"~{start}{both[0].tobytes().hex()};{both[1].tobytes().hex()}"


def line_of(case):
    if case.results in (ERROR, LATE):
        return f"{case.lua}\t{'!' if case.results == ERROR else '!!'}"
    parts = [written(r) for r in case.results]
    return None if None in parts else "\t".join([case.lua] + parts)


def kind_of(name, first):
    if name == first:
        return "same"
    if name not in DTYPES:
        return name
    return "float" if is_float(name) else "uint64" if name == "uint64" else "integer" if name in INTS else "bool"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=60000, help="cases to choose from")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    chosen = {}
    for cases in number_cases.chunks(options.n, options.seed, None, 10000):
        for case in cases:
            line = line_of(case)
            if not line or len(line) > MOST:
                continue
            partner = kind_of(case.names[1], case.names[0]) if len(case.names) > 1 else ""
            if case.family.startswith("in place"):
                partner = partner if partner in ("int", "float") else ""
            key = case.family, case.names[0], case.results in (ERROR, LATE), partner
            rank = -len(line) if len(line) <= LONGEST else len(line)
            if key not in chosen or rank < chosen[key][0]:
                chosen[key] = rank, line
    path, family = os.path.join(HERE, "cases.txt"), None
    with open(path, "w") as file:
        for key in sorted(chosen, key=lambda k: (k[0], k)):
            if key[0] != family:
                family = key[0]
                file.write(f"# {family}\n")
            file.write(chosen[key][1] + "\n")
    print(f"{path}: {len(chosen)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
