"""What NumPy says an operation gives: dtypes, values, tolerances, and the differences that are meant.

A difference that is meant has a name in MEANT. It is no licence: where moonlet computes in another dtype than NumPy
would, operands are converted to that dtype first and NumPy computes there, so that the values are compared all the
same.
"""

import math
import warnings
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
from number_values import DTYPES, NAMES, Number, Operand, is_float, limits

np.seterr(all="ignore")
warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's own, of empty slices and overflow

# The list of docs/lua/numpy.md, by the headings of its entries; compare_numbers.py counts the cases of each.
MEANT = {
    "bool": "Booleans",
    "int-float": "Integers with floats",
    "plain": "Plain numbers",
    "int-function": "Functions of integers",
    "uint64-signed": "uint64 with signed integers",
    "half-half": "float16 with bfloat16",
    "sum": "Sums and products",
    "index": "Indices and counts",
    "float-to-int": "Floats out of an integer dtype's range",
    "negative-power": "Negative powers",
    "no-fraction": "Fractions",
    "in-place": "In place",
    "zero-sign": "Zeros",
    "range": "Indices out of range",
    "product": "Matrix products of integers",
}

# Ulps of the result's dtype, measured against a wider computation: (float32, float64); float16 and bfloat16 are rounded
# from float32, and 1 ulp is allowed there. What is missing here is compared bit by bit.
ULPS = {
    "exp": (2, 1), "expm1": (2, 2), "log": (1, 1), "log1p": (1, 2), "log2": (1, 2), "rsqrt": (1, 1), "sin": (1, 1),
    "cos": (1, 1), "tan": (1, 1), "sinh": (2, 2), "cosh": (2, 2), "tanh": (4, 2), "arcsin": (1, 1), "arccos": (1, 1),
    "arctan": (1, 1), "erf": (1, 1), "sigmoid": (4, 2), "pow": (1, 1), "arctan2": (1, 1), "logaddexp": (3, 2),
    "mean": (1, 1), "sum": (1, 1), "prod": (1, 1), "cumsum": (1, 1), "cumprod": (1, 1), "logsumexp": (1, 2),
    "norm": (2, 2), "var": (4, 4), "std": (4, 4), "matmul": (1, 1), "linspace": (1, 1), "arange": (1, 1),
}  # fmt: skip


def ulps_of(op, dtype):
    if op not in ULPS or not is_float(dtype):
        return None
    return ULPS[op][dtype == "float64"] if dtype in ("float32", "float64") else 1


@dataclass
class Expected:
    """One result: an array (its dtype and shape count), how far a value may be from it, what else is accepted."""

    value: object
    ulps: int | None = None
    slack: object = 0.0  # absolute, beside the ulps; an array or a number
    either_zero: bool = False
    other: object = None  # another value that is as right, entry by entry


@dataclass
class Case:
    family: str
    lua: str
    results: object  # a list of Expected, or ERROR, or LATE
    meant: set = field(default_factory=set)
    names: tuple = ()  # dtypes, for grouping
    text: str = ""


ERROR = "an error at the line that made it"
LATE = "an error where values are read"


def case(family, op, lua, results, meant=(), names=()):
    if isinstance(results, Expected):
        results = [results]
    return Case(f"{family}:{op}", lua, results, set(meant), tuple(names))


# ---- dtypes ----


def promote(a, b, meant):
    """The dtype that two tensors meet at."""
    if a == b:
        return a
    if is_float(a) != is_float(b) and "bool" not in (a, b):
        to = a if is_float(a) else b
        try:
            same = np.promote_types(DTYPES[a], DTYPES[b]) == DTYPES[to]
        except TypeError:
            same = False
        if not same:
            meant.add("int-float")
        return to
    if {a, b} == {"float16", "bfloat16"}:
        meant.add("half-half")
        return "float32"
    if "uint64" in (a, b) and (a.startswith("int") or b.startswith("int")):
        meant.add("uint64-signed")
        return "int64" if "int64" in (a, b) else "uint64"
    if "bool" in (a, b):
        return b if a == "bool" else a
    if "bfloat16" in (a, b):
        return "float64" if "float64" in (a, b) else "float32"
    return np.promote_types(DTYPES[a], DTYPES[b]).name


def meet(a, b, meant):
    """The dtype that two operands meet at; plain numbers give way."""
    if (a.name is None) == (b.name is None):
        return promote(a.name, b.name, meant)
    strong, weak = (a, b) if b.name is None else (b, a)
    if is_float(strong.name):
        return strong.name
    if weak.kind == "float":
        meant.add("plain")
        return "float32"
    if strong.name == "bool" and weak.kind == "int":
        meant.add("plain")
        return "int32" if -(2**31) <= weak.value < 2**31 else "int64"
    return strong.name


def fits(number, name):
    """Whether a plain number is a value of an integer dtype."""
    low, high = limits(name)
    return number == int(number) and low <= number <= high if math.isfinite(number) else False


def cast(x, name):
    """An operand, or an array, in another dtype."""
    value = x.value if isinstance(x, (Operand, Number)) else x
    if isinstance(x, Number):
        if is_float(name):
            return np.array(float(value)).astype(DTYPES[name])
        return np.array(value, dtype=DTYPES[name])
    if is_float(name) or value.dtype.kind in "biu" or value.dtype == DTYPES[name]:
        return value.astype(DTYPES[name])
    return float_to_int(value, name)


def float_to_int(value, name):
    """Truncated; beyond 64 bits the nearest 64-bit integer; wrapped to the dtype. NaN is 0."""
    wide = np.nan_to_num(np.trunc(value.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if name == "bool":
        return value.astype(np.float64) != 0
    out = np.zeros(value.shape, dtype=np.int64)
    inside = (wide >= -(2.0**63)) & (wide < 2.0**63)
    out[inside] = wide[inside].astype(np.int64)
    out[wide >= 2.0**63] = 2**63 - 1
    out[wide < -(2.0**63)] = -(2**63)
    out = out.astype(DTYPES[name])
    if name == "uint64":
        high = (wide >= 2.0**63) & (wide < 2.0**64)
        out[high] = wide[high].astype(np.uint64)
        out[wide >= 2.0**64] = 2**64 - 1
    return out


def outside(value, name):
    """Whether an array of floats has values that an integer dtype does not hold."""
    v = np.trunc(value.astype(np.float64))
    if name == "bool":
        return False
    low, high = limits(name)
    return bool(np.any(~((v >= float(low)) & (v < float(high) + 1 if high < 2**53 else v < float(high + 1)))))


# ---- elementwise ----


def erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def exact_erf(x, wide):
    return erf(x.astype(np.float64)).astype(wide)


UNARY = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "square": np.square, "floor": np.floor, "ceil": np.ceil,
    "round": np.rint, "sqrt": np.sqrt, "reciprocal": lambda x: 1 / x, "rsqrt": lambda x: 1 / np.sqrt(x), "exp": np.exp,
    "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "log2": np.log2, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "arcsin": np.arcsin, "arccos": np.arccos, "arctan": np.arctan,
    "erf": erf, "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}  # fmt: skip
SAME_NUMBER = {"neg", "abs", "sign", "square", "floor", "ceil", "round"}
PREDICATES = {"isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "logical_not": np.logical_not}

ARITHMETIC = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "floordiv": np.floor_divide, "mod": np.remainder,
    "pow": np.power, "maximum": np.maximum, "minimum": np.minimum,
}  # fmt: skip
QUOTIENTS = {"div": np.true_divide, "arctan2": np.arctan2, "logaddexp": np.logaddexp}
COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
           "ge": np.greater_equal}  # fmt: skip
LOGICAL = {"logical_and": np.logical_and, "logical_or": np.logical_or}
BITS = {"bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor,
        "left_shift": np.left_shift, "right_shift": np.right_shift}  # fmt: skip
BINARY = ARITHMETIC | QUOTIENTS | COMPARE | LOGICAL | BITS
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "pow": "^"}


def wide_of(name):
    return np.longdouble if name == "float64" else np.float64


def eps_of(name):
    """The spacing of the dtype that a float dtype is computed in, at 1."""
    return 2.0**-52 if name == "float64" else 2.0**-23


def computed(op, function, operands, name):
    """An operation on arrays of one dtype: as NumPy computes it, or, where it has a tolerance, in a wider dtype."""
    ulps = ulps_of(op, name)
    if ulps is not None:
        wide = wide_of(name)
        # As arrays of one shape: NumPy takes a square root for a power of 0.5 that stands alone.
        value = function(*[x.astype(wide) for x in np.broadcast_arrays(*operands)])
        return Expected(np.asarray(value).astype(DTYPES[name]), ulps)
    if name == "bfloat16":  # in float32, rounded once
        value = np.asarray(function(*[x.astype(np.float32) for x in operands]))
        return Expected(value.astype(DTYPES[name]) if value.dtype == np.float32 else value)
    return Expected(np.asarray(function(*operands)))


def unary(op, x):
    meant = set()
    if op in PREDICATES:
        value = x.value.astype(np.float32) if x.name == "bfloat16" else x.value
        return Expected(np.asarray(PREDICATES[op](value))), meant
    name = x.name
    if op in SAME_NUMBER and name == "bool":
        meant.add("bool")
        name = "int32"
    if op in ("floor", "ceil", "round") and not is_float(name):
        return Expected(cast(x, name)), meant
    if op not in SAME_NUMBER and not is_float(name):
        meant.add("int-function")
        name = "float32"
    return computed(op, UNARY[op], [cast(x, name)], name), meant


def int_power(a, b):
    """a to the power b of equal integer dtypes; negative powers are truncated."""
    negative = b < 0
    powers = np.power(a, np.where(negative, 0, b).astype(b.dtype))
    odd = (b & 1) == 1
    small = np.where(a == 1, 1, np.where(a == -1, np.where(odd, -1, 1), 0)) if a.dtype.kind == "i" else 0
    return np.where(negative, small, powers).astype(a.dtype)


def compare_by_value(op, a, b):
    """Entries against a plain number that their dtype does not hold."""
    test = {"eq": "__eq__", "ne": "__ne__", "lt": "__lt__", "le": "__le__", "gt": "__gt__", "ge": "__ge__"}[op]
    shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    left = np.broadcast_to(np.asarray(a, dtype=object), shape)
    right = np.broadcast_to(np.asarray(b, dtype=object), shape)
    flat = [getattr(x, test)(y) for x, y in zip(left.ravel(), right.ravel())]
    return np.array(flat, dtype=bool).reshape(shape)


def plain_outside(a, b):
    """The plain integer among a tensor of an integer dtype that does not hold it, and whether it stands on the left."""
    for number, other, left in ((a, b, True), (b, a, False)):
        if number.name is None and other.name not in (None, "bool") and not is_float(other.name):
            if number.kind == "int" and not fits(number.value, other.name):
                return number, other, left
    return None, None, None


def beside_plain_float(a, b):
    """Whether one is a plain float and the other a tensor of integers or booleans: compared in float64."""
    number, other = (a, b) if a.name is None else (b, a)
    return number.name is None and number.kind == "float" and other.name is not None and not is_float(other.name)


def binary(op, a, b):
    """-> Expected or ERROR, the differences that are meant."""
    meant = set()
    number, other, left = plain_outside(a, b)
    if number is not None:
        if op in COMPARE:
            return Expected(compare_by_value(op, a.value, b.value)), meant
        if op in ("maximum", "minimum"):
            held = (number.value > limits(other.name)[1]) == (op == "minimum")
            return (Expected(other.value) if held else ERROR), meant
        if op in ARITHMETIC or op in BITS:
            return ERROR, meant
        if op in LOGICAL:
            return Expected(np.asarray(LOGICAL[op](a.value != 0, b.value != 0))), meant
    if op in COMPARE and {x.value.dtype.kind for x in (a, b) if x.name} == {"i", "u"}:
        return Expected(np.asarray(COMPARE[op](a.value, b.value))), meant  # by value, uint64 with int64 too
    if (op in COMPARE or op in LOGICAL) and beside_plain_float(a, b):
        return Expected(np.asarray(BINARY[op](*[np.asarray(x.value).astype(np.float64) for x in (a, b)]))), meant
    name = meet(a, b, meant)
    if op in BITS and is_float(name):
        return ERROR, set()
    if op in ARITHMETIC and name == "bool":
        meant.add("bool")
        name = "int32"
    if op in QUOTIENTS and not is_float(name):
        meant.add("int-function")
        name = "float32"
    x, y = cast(a, name), cast(b, name)
    if op in COMPARE or op in LOGICAL:
        if name == "bfloat16":
            x, y = x.astype(np.float32), y.astype(np.float32)
        return Expected(np.asarray(BINARY[op](x, y))), meant
    if op == "pow" and not is_float(name):
        if np.any(y < 0):
            meant.add("negative-power")
        return Expected(int_power(x, y)), meant
    if op in ("left_shift", "right_shift") and name == "bool":
        meant.add("bool")
        return Expected(BINARY[op](x.astype(np.int64), y.astype(np.int64)) != 0), meant
    result = computed(op, BINARY[op], [x, y], name)
    if op == "pow" and name == "float64":  # the C library's long double pow is wrong for some infinite results
        result.other = np.power(x, y)
    if op == "logaddexp":
        largest = np.maximum(x, y).astype(wide_of(name))
        apart = np.abs(x.astype(wide_of(name)) - y.astype(wide_of(name)))  # whose rounding counts as well
        slack = (np.abs(largest) * 2 + apart * np.exp(-apart)) * eps_of(name)
        result.slack = np.where(np.isfinite(slack), slack, 0)
    if op in ("maximum", "minimum") and is_float(name) and np.any((x == 0) & (y == 0)):
        result.either_zero = True
        meant.add("zero-sign")
    return result, meant


def where(c, a, b):
    """-> Expected or ERROR, the differences that are meant."""
    meant = set()
    if plain_outside(a, b)[0] is not None:
        return ERROR, meant
    name = meet(a, b, meant)
    truth = c.value.astype(np.float64) != 0 if is_float(c.name) else c.value != 0
    return Expected(np.where(truth, cast(a, name), cast(b, name)).astype(DTYPES[name])), meant


def clip(x, low, high):
    """Below by maximum, above by minimum, each with its own meeting of dtypes."""
    meant, value, zero = set(), x, False
    for op, limit in (("maximum", low), ("minimum", high)):
        if limit is None:
            continue
        result, more = binary(op, value, limit)
        meant |= more
        if result == ERROR:
            return ERROR, meant
        zero |= result.either_zero
        value = Operand(NAMES[result.value.dtype], result.value, "")
    return Expected(value.value, either_zero=zero), meant


def astype(x, name):
    meant = set()
    if is_float(x.name) and not is_float(name) and outside(x.value, name):
        meant.add("float-to-int")
    return Expected(cast(x, name)), meant
