"""The cases of compare_numbers.py: generators, one a family of operations, each a round over all dtypes."""

import itertools

import numpy as np
import number_oracle as oracle
import number_reductions
import number_shapes
import number_views
from number_oracle import ERROR, case
from number_values import (
    DTYPES,
    NAMES,
    PLAIN,
    PLAIN_FLOATS,
    PLAIN_INTEGERS,
    Number,
    Operand,
    pair_of_shapes,
    tensor,
)


def wrapped(number):
    """A plain number as the left operand of an operator."""
    return f"({number.lua})"


def unary_cases(rng):
    for op in list(oracle.UNARY) + list(oracle.PREDICATES):
        for name in PLAIN:
            x = tensor(rng, name)
            result, meant = oracle.unary(op, x)
            lua = f"(-{x.lua})" if op == "neg" and rng.integers(2) else f"{x.lua}:{op}()"
            yield case("unary", op, lua, result, meant, (name,))


def binary_lua(rng, op, a, b):
    if op in oracle.OPERATORS and rng.integers(2):
        return f"({a.lua}) {oracle.OPERATORS[op]} ({b.lua})"
    if a.name is None or rng.integers(4) == 0:
        return f"ml.{op}({a.lua}, {b.lua})"
    return f"{a.lua}:{op}({b.lua})"


def binary_cases(rng):
    for op in oracle.BINARY:
        for left, right in itertools.product(PLAIN, PLAIN):
            shape_a, shape_b = pair_of_shapes(rng)
            if rng.integers(2):  # views keep shapes that broadcast only where both are viewed alike
                view = ["transposed", "flipped", "strided"][rng.integers(3)]
                a = tensor(rng, left, (4, 4), view=view)
                b = tensor(rng, right, (4, 4), view=view if rng.integers(2) or view == "strided" else "")
            else:
                a, b = tensor(rng, left, shape_a, view=""), tensor(rng, right, shape_b, view="")
            result, meant = oracle.binary(op, a, b)
            yield case("binary", op, binary_lua(rng, op, a, b), result, meant, (left, right))


def plain_number(rng):
    if rng.integers(2):
        return Number(PLAIN_INTEGERS[rng.integers(len(PLAIN_INTEGERS))])
    return Number(PLAIN_FLOATS[rng.integers(len(PLAIN_FLOATS))])


def number_cases(rng):
    """Tensors and plain numbers, on either side."""
    for op in oracle.BINARY:
        for name in PLAIN:
            for _ in range(4):
                x, number = tensor(rng, name), plain_number(rng)
                a, b = (x, number) if rng.integers(3) else (number, x)
                result, meant = oracle.binary(op, a, b)
                where = "left" if a is number else "right"
                yield case("number", op, binary_lua(rng, op, a, b), result, meant, (name, number.kind, where))


def where_cases(rng):
    for left, right in itertools.product(PLAIN, PLAIN):
        c, a = tensor(rng, PLAIN[rng.integers(len(PLAIN))], (3, 4)), tensor(rng, left, (1,), view="")
        b = tensor(rng, right, (), view="")
        result, meant = oracle.where(c, a, b)
        yield case("where", "tensors", f"ml.where({c.lua}, {a.lua}, {b.lua})", result, meant, (left, right))
    for name in PLAIN:
        for _ in range(12):
            c, x, number = tensor(rng, "bool", (7,), view=""), tensor(rng, name, (7,), view=""), plain_number(rng)
            a, b = (x, number) if rng.integers(2) else (number, x)
            result, meant = oracle.where(c, a, b)
            yield case("where", "number", f"ml.where({c.lua}, {a.lua}, {b.lua})", result, meant, (name, number.kind))


def clip_cases(rng):
    for name in PLAIN:
        for _ in range(24):
            x, low, high = tensor(rng, name), plain_number(rng), plain_number(rng)
            low, high = [(low, None), (None, high), (low, high)][rng.integers(3)]
            result, meant = oracle.clip(x, low, high)
            bounds = ", ".join("nil" if n is None else n.lua for n in (low, high))
            kinds = tuple(n.kind for n in (low, high) if n)
            yield case("clip", "numbers", f"{x.lua}:clip({bounds})", result, meant, (name,) + kinds)
        for other in PLAIN:
            x = tensor(rng, name, (3, 4), view="")
            low, high = tensor(rng, other, (4,), view=""), tensor(rng, other, (3, 1), view="")
            result, meant = oracle.clip(x, low, high)
            yield case("clip", "tensors", f"{x.lua}:clip({low.lua}, {high.lua})", result, meant, (name, other))


def cast_cases(rng):
    for name, to in itertools.product(PLAIN + ["float8_e4m3"], PLAIN):
        for _ in range(3):
            x = tensor(rng, name)
            result, meant = oracle.astype(x, to)
            method = ["astype", "to"][rng.integers(2)]
            yield case("cast", "astype", f'{x.lua}:{method} "{to}"', result, meant, (name, to))


def in_place_cases(rng):
    """x:add_(y): the value in x's own dtype, which NumPy refuses where that is another kind."""
    for op in oracle.BINARY:
        for name in PLAIN:
            for _ in range(3):
                x, other = tensor(rng, name, [(3, 4), (5,), (2,)][rng.integers(3)]), PLAIN[rng.integers(len(PLAIN))]
                y = plain_number(rng) if rng.integers(3) == 0 else tensor(rng, other, (1,), view="")
                result, meant = oracle.binary(op, x, y)
                if result != ERROR:
                    made = Operand(NAMES[result.value.dtype], result.value, "")
                    if not np.can_cast(result.value.dtype, DTYPES[name], "same_kind"):
                        meant.add("in-place")
                    if made.name != name and result.ulps is not None:
                        continue  # a value near an integer may be truncated to either
                    result.value = oracle.cast(made, name)
                    if result.value.shape != x.value.shape:
                        result = ERROR
                yield case("in place", op, f"{x.lua}:{op}_({y.lua})", result, meant, (name, y.name or y.kind))


FAMILIES = [in_place_cases, unary_cases, binary_cases, number_cases, where_cases, clip_cases, cast_cases]
FAMILIES += number_reductions.FAMILIES + number_shapes.FAMILIES + number_views.FAMILIES


def all_cases(seed, only):
    for turn in itertools.count():
        rng = np.random.default_rng([seed, turn])
        for family in FAMILIES:
            for one in family(rng):
                if not only or only in one.family:
                    yield one


def chunks(n, seed, only, size):
    """Lists of cases, at least n altogether; the last round is whole."""
    source, made = all_cases(seed, only), 0
    while made < n:
        some = list(itertools.islice(source, min(size, n - made)))
        made += len(some)
        yield some
