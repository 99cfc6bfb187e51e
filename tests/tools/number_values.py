"""Operands for compare_numbers.py: edge values of each dtype, views on them, and the Lua text that makes them."""

import math
import re

import ml_dtypes
import numpy as np

DTYPES = {
    "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64,
    "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16,
    "int32": np.int32, "uint32": np.uint32, "int64": np.int64, "uint64": np.uint64,
    "bool": np.bool_, "float8_e4m3": ml_dtypes.float8_e4m3fn,
}  # fmt: skip
DTYPES = {name: np.dtype(t) for name, t in DTYPES.items()}
NAMES = {t: name for name, t in DTYPES.items()}
FLOATS = ["float32", "float16", "bfloat16", "float64"]
INTS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
PLAIN = FLOATS + INTS + ["bool"]  # what is computed with

PLAIN_INTEGERS = sorted(
    {0, 1, -1, 2, 3, 7, -5, 100, 300, 3_000_000_000, 2**32 + 1, -(2**63), 2**63 - 1, 2**53, 2**53 + 1, -(2**53) - 1}
    | {s * 2**b + d for b in (7, 8, 15, 16, 31, 32) for s in (1, -1) for d in (-1, 0, 1)}
)
PLAIN_FLOATS = [
    0.0, -0.0, 1.0, -1.0, 0.5, 1.5, -2.5, 3.0, 0.1, 7.0, math.pi, 255.0, 256.0, 300.0, -5.0, 65504.0, 65520.0, 1e5,
    16777217.0, 2147483648.0, 2.0**53, 2.0**63, -(2.0**63), 2.0**64, 1e30, 1e-30, 1e-45, 1e300, 5e-324,
    3.4028235e38, 3.5e38, math.inf, -math.inf, math.nan,
]  # fmt: skip


def is_float(name):
    return "float" in name


def limits(name):
    if name == "bool":
        return 0, 1
    info = np.iinfo(DTYPES[name])
    return int(info.min), int(info.max)


def float_edges(name):
    info = ml_dtypes.finfo(DTYPES[name])
    t = DTYPES[name].type
    one = t(1)
    most, least = float(info.max), float(info.smallest_subnormal)
    normal, near = float(info.smallest_normal), float(one - info.eps / t(2))
    edges = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 3.0, 7.0, -7.0, 10.0, 0.1, math.pi, 100.0, math.inf, -math.inf,
             math.nan, most, -most, most / 2, normal, least, -least, normal * 0.75, near, float(one + info.eps),
             1 / float(info.eps), 2 / float(info.eps) + 2]  # fmt: skip
    if name == "float64":
        edges += [2.0**53, 2.0**53 + 2, 2.0**63, 2.0**64, -(2.0**63), 1e17, 65519.999, 3.4028235677973366e38]
    if name in ("float32", "bfloat16"):
        edges += [2.0**31, 2.0**63, 2.0**64, 1e9, 1e30, 1e-30, 65504.0, 88.8, -103.9]
    return np.array(edges).astype(DTYPES[name])


def int_edges(name):
    low, high = limits(name)
    some = {0, 1, 2, 3, 7, 100, -1, -2, -7, low, low + 1, high, high - 1, high // 2, high // 2 + 1}
    some |= {2**b + d for b in (24, 31, 53, 63) for d in (-1, 0, 1)}
    return np.array([v for v in sorted(some) if low <= v <= high], dtype=DTYPES[name])


EDGES = {name: float_edges(name) if is_float(name) else int_edges(name) for name in FLOATS + INTS}
EDGES["bool"] = np.array([False, True])
EDGES["float8_e4m3"] = np.arange(256, dtype=np.uint8).view(DTYPES["float8_e4m3"])


def random_values(rng, name, n, kind):
    """`kind`: edge, bits (any), or small (whose sums and products stay in range)."""
    t = DTYPES[name]
    if name == "bool":
        return rng.integers(0, 2, n).astype(bool)
    if kind == "edge":
        return rng.choice(EDGES[name], n)
    if kind == "bits":
        values = rng.integers(0, 256, (n, t.itemsize), dtype=np.uint8).view(t).reshape(n)
        return np.where(values != values, t.type(np.nan), values) if is_float(name) else values  # no signalling NaN
    if is_float(name):
        values = rng.standard_normal(n) * 10.0 ** rng.integers(-2, 2)
        return (np.round(values) if rng.integers(4) == 0 else values).astype(t)
    low, high = limits(name)
    return rng.integers(max(low, -9), min(high, 10), n).astype(t)


def mixed_values(rng, name, n):
    """Edges, and every other time random bits or small numbers among them."""
    values = random_values(rng, name, n, "edge")
    other = random_values(rng, name, n, rng.choice(["bits", "small"]))
    return np.where(rng.integers(0, 3, n) == 0, other, values).astype(DTYPES[name]) if n else values


def literal(value):
    """A plain number or boolean as Lua text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return "math.mininteger" if value == -(2**63) else str(value)
    if math.isnan(value):
        return "(0/0)"
    if math.isinf(value):
        return "math.huge" if value > 0 else "(-math.huge)"
    return re.sub(r"\.?0*p", "p", value.hex())


def nested(array):
    if array.ndim == 0:
        return literal(array.item() if array.dtype != DTYPES["bfloat16"] else float(array))
    return "{" + ", ".join(nested(a) for a in array) + "}"


def braces(sizes):
    return "{" + ", ".join(str(n) for n in sizes) + "}"


class Operand:
    """A tensor: its values as NumPy has them, and the Lua text that makes it."""

    def __init__(self, name, value, lua=None):
        self.name, self.value = name, value
        self.lua = lua or f'T("{name}", {braces(value.shape)}, "{value.tobytes().hex()}")'

    def view(self, kind, rng):
        """Another way to look at it, with the same number of axes (broadcast: one more)."""
        v, lua = self.value, self.lua
        if kind == "transposed" and v.ndim > 1:
            return Operand(self.name, v.T, f"{lua}:transpose()")
        if kind == "flipped" and v.ndim > 0:
            return Operand(self.name, np.flip(v), f"{lua}:flip()")
        if kind == "strided" and v.ndim > 0:
            return Operand(self.name, v[::2], f"{lua}:slice {{{{1, -1, 2}}}}")
        if kind == "inner" and v.ndim > 1:
            return Operand(self.name, v[:, 1:], f"{lua}:slice {{{{}}, {{2, -1}}}}")
        if kind == "broadcast" and v.ndim < 3:
            shape = (2,) + v.shape
            return Operand(self.name, np.broadcast_to(v, shape), f"{lua}:broadcast_to {braces(shape)}")
        return self


class Number:
    """A plain Lua number or boolean."""

    name = None

    def __init__(self, value):
        self.value, self.lua = value, literal(value)
        self.kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"


VIEWS = ["", "", "", "transposed", "flipped", "strided", "inner", "broadcast"]
SHAPES = [(), (1,), (7,), (17,), (3, 4), (2, 3, 3), (0,), (2, 0)]


def tensor(rng, name, shape=None, kind=None, view=None):
    shape = SHAPES[rng.integers(len(SHAPES))] if shape is None else shape
    n = math.prod(shape)
    values = mixed_values(rng, name, n) if kind is None else random_values(rng, name, n, kind)
    x = Operand(name, values.reshape(shape))
    return x.view(VIEWS[rng.integers(len(VIEWS))] if view is None else view, rng)


def pair_of_shapes(rng):
    """Two shapes that broadcast."""
    pairs = [((17,), (17,)), ((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 5)), ((), (9,)), ((9,), ()),
             ((2, 3, 4), (3, 1)), ((0,), (0,)), ((0,), (1,)), ((2, 0), (1,)), ((33,), (33,)), ((1,), (5,)),
             ((130,), ())]  # fmt: skip
    return pairs[rng.integers(len(pairs))]
