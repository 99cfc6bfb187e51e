"""Cases of reductions, running reductions and ordering, with what NumPy gives."""

import itertools
import math

import ml_dtypes
import numpy as np
from number_oracle import ERROR, Expected, case, cast, eps_of, meet, ulps_of, wide_of
from number_values import DTYPES, PLAIN, Number, Operand, braces, is_float, limits, mixed_values, random_values, tensor

NARROW = ("bool", "int8", "uint8", "int16", "uint16")
SHAPES = [(), (1,), (6,), (33,), (300,), (3, 4), (4, 1, 3), (2, 3, 4), (0,), (2, 0), (0, 3)]


def gentle(rng, name, shape):
    """Values whose sums and products stay finite, NaN and infinities and limits of integers now and then."""
    n = math.prod(shape)
    values = random_values(rng, name, n, "small")
    if n and rng.integers(3) == 0:
        values = values.copy()
        if is_float(name):
            most = float(ml_dtypes.finfo(DTYPES[name]).max)
            special = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40, 200.0, most / 8, most**0.5][rng.integers(9)]
        else:
            special = limits(name)[rng.integers(2)]
        values[rng.integers(0, n, 1 + n // 8)] = special
    elif n and not is_float(name) and rng.integers(3) == 0:
        values = mixed_values(rng, name, n)
    x = Operand(name, values.astype(DTYPES[name]).reshape(shape))
    return x.view(["", "", "transposed", "flipped", "strided", "inner", "broadcast"][rng.integers(7)], rng)


def some_axes(rng, ndim, one=False):
    """None, an axis, or a list of them, 0-based as NumPy counts and as Lua text."""
    if ndim == 0 or rng.integers(3) == 0:
        return None, "nil"
    if one or rng.integers(2):
        axis = int(rng.integers(ndim))
        return axis, str(axis + 1 if rng.integers(2) else axis - ndim)
    axes = tuple(int(a) for a in rng.permutation(ndim)[: rng.integers(1, ndim + 1)])
    return axes, braces([a + 1 for a in axes])


def call(rng, op, x, axis, keepdims, ddof=None):
    """The call with its arguments in order, or by name."""
    if ddof is None and rng.integers(2):
        return f"{x.lua}:{op}({axis}, true)" if keepdims else f"{x.lua}:{op}({axis})"
    named = [f"axis = {axis}"] if axis != "nil" else []
    named += ["keepdims = true"] if keepdims else []
    named += [f"ddof = {ddof}"] if ddof else []
    return f"{x.lua}:{op} {{{', '.join(named)}}}" if named else f"{x.lua}:{op}()"


def sum_dtype(name, meant):
    """The dtype of a sum or product."""
    if is_float(name):
        return name
    to = "int32" if name in NARROW else name
    if np.zeros(1, DTYPES[name]).sum().dtype != DTYPES[to]:
        meant.add("sum")
    return to


def float_dtype(name, meant):
    if is_float(name):
        return name
    meant.add("int-function")
    return "float32"


def total(op, x, axis, keepdims, meant):
    name = sum_dtype(x.name, meant)
    function = np.sum if op == "sum" else np.prod
    if not is_float(name):
        return Expected(np.asarray(function(x.value.astype(DTYPES[name]), axis, DTYPES[name], keepdims=keepdims)))
    values = x.value.astype(wide_of(name))
    exact = function(values, axis, keepdims=keepdims)
    slack = np.sum(np.abs(values), axis, keepdims=keepdims) if op == "sum" else np.abs(exact)
    count = max(1, values.size)
    slack = np.where(np.isfinite(slack), slack * eps_of(name) * min(count, 8 if op == "sum" else 32), 0)
    # float32 itself: products that leave its range on the way
    narrow = DTYPES["float64" if name == "float64" else "float32"]
    other = function(x.value.astype(narrow), axis, keepdims=keepdims)
    if op == "prod":  # an overflow on the way, which depends on the order, and a zero
        large = np.prod(np.where(np.abs(values) > 1, np.abs(values), 1), axis, keepdims=keepdims)
        lost = (large > np.finfo(narrow).max) & np.any(values == 0, axis, keepdims=keepdims)
        other = np.where(lost, np.nan, other)
    return Expected(np.asarray(exact).astype(DTYPES[name]), 1, slack, other=np.asarray(other).astype(DTYPES[name]))


def mean(x, axis, keepdims, meant):
    name = float_dtype(x.name, meant)
    if is_float(x.name):
        values = x.value.astype(wide_of(x.name))
        slack = np.mean(np.abs(values), axis, keepdims=keepdims) * eps_of(name) * 4
        value = np.mean(values, axis, keepdims=keepdims)
        # NumPy's own sums leave the range of float32 and float64 as well.
        other = np.mean(x.value.astype(DTYPES["float64" if name == "float64" else "float32"]), axis, keepdims=keepdims)
        slack = np.where(np.isfinite(slack), slack, 0)
        return Expected(np.asarray(value).astype(DTYPES[name]), 1, slack, other=np.asarray(other).astype(DTYPES[name]))
    sums = np.asarray(np.sum(x.value.astype(np.longdouble), axis, keepdims=keepdims))
    count = x.value.size // max(1, sums.size)
    return Expected((sums / np.longdouble(count)).astype(DTYPES[name]), 1)


def extreme(op, x, axis, keepdims, meant):
    function = getattr(np, op)
    if op in ("all", "any"):
        return Expected(np.asarray(function(x.value != 0, axis, keepdims=keepdims)))
    values = x.value.astype(np.float32) if x.name == "bfloat16" else x.value
    try:
        value = np.asarray(function(values, axis, keepdims=keepdims))
    except ValueError:
        return ERROR
    if op in ("argmax", "argmin"):
        meant.add("index")
        return Expected(value.astype(np.int32))
    if is_float(x.name):
        meant.add("zero-sign")
    return Expected(value.astype(DTYPES[x.name]), either_zero=True)


def logsumexp(x, axis, keepdims, meant):
    name = float_dtype(x.name, meant)
    values = x.value.astype(wide_of(x.name))
    high = np.max(values, axis, keepdims=True, initial=-np.inf)
    base = np.where(np.isfinite(high), high, 0)
    value = np.log(np.sum(np.exp(values - base), axis, keepdims=True)) + base
    value = value if keepdims else np.squeeze(value, axis if axis is not None else tuple(range(values.ndim)))
    slack = np.max(np.where(np.isfinite(base), np.abs(base), 0), initial=0) * eps_of(name)
    return Expected(np.asarray(value).astype(DTYPES[name]), ulps_of("logsumexp", name), slack)


def norm(x, axis, keepdims, meant):
    name = float_dtype(x.name, meant)
    values = x.value.astype(wide_of(name))
    value = np.sqrt(np.sum(values * values, axis, keepdims=keepdims))
    other = None
    if name == "float64":  # whose squares leave its range, in NumPy as well
        other = np.asarray(np.sqrt(np.sum(x.value * x.value, axis, keepdims=keepdims)))
    return Expected(np.asarray(value).astype(DTYPES[name]), ulps_of("norm", name), other=other)


def variance(op, x, axis, keepdims, ddof, meant):
    name = float_dtype(x.name, meant)
    values = x.value.astype(np.longdouble)
    value = np.var(values, axis, keepdims=keepdims, ddof=ddof)
    other = None
    if name == "float64":  # whose squares leave its range, in NumPy as well
        other = np.asarray(getattr(np, op)(x.value, axis, keepdims=keepdims, ddof=ddof))
    # What rounding the mean, and the distances from it, may add.
    largest = np.max(np.abs(values), initial=0, where=np.isfinite(values))
    count = max(1, values.size // max(1, np.asarray(value).size))
    divisor = max(count - ddof, 0)
    slack = (largest * eps_of(name)) ** 2 * (count / divisor if divisor else 0) * 4
    if op == "std":
        value, slack = np.sqrt(value), np.sqrt(slack)
    return Expected(np.asarray(value).astype(DTYPES[name]), ulps_of(op, name), slack, other=other)


REDUCTIONS = ["sum", "prod", "mean", "max", "min", "all", "any", "argmax", "argmin", "logsumexp", "norm", "var", "std"]


def reduction_cases(rng):
    for op, name in itertools.product(REDUCTIONS, PLAIN):
        for _ in range(5):
            meant = set()
            x = gentle(rng, name, SHAPES[rng.integers(len(SHAPES))])
            axis, text = some_axes(rng, x.value.ndim, op.startswith("arg"))
            keepdims = bool(rng.integers(2))
            ddof = None
            if op in ("sum", "prod"):
                result = total(op, x, axis, keepdims, meant)
            elif op == "mean":
                result = mean(x, axis, keepdims, meant)
            elif op == "logsumexp":
                result = logsumexp(x, axis, keepdims, meant)
            elif op == "norm":
                result = norm(x, axis, keepdims, meant)
            elif op in ("var", "std"):
                ddof = int(rng.integers(4))
                result = variance(op, x, axis, keepdims, ddof, meant)
            else:
                result = extreme(op, x, axis, keepdims, meant)
            yield case("reduce", op, call(rng, op, x, text, keepdims, ddof), result, meant, (name,))


def scan(op, x, axis, meant):
    values = x.value
    if op in ("cummax", "cummin"):
        function = np.maximum if op == "cummax" else np.minimum
        name = x.name
        if name == "bool":
            meant.add("bool")
            name = "int32"
        values = values.astype(np.float32) if name == "bfloat16" else values.astype(DTYPES[name])
        value = function.accumulate(values, axis).astype(DTYPES[name])
        return Expected(value, either_zero=True)
    name = sum_dtype(x.name, meant)
    function = np.cumsum if op == "cumsum" else np.cumprod
    if not is_float(name):
        return Expected(function(values.astype(DTYPES[name]), axis, DTYPES[name]))
    values = values.astype(wide_of(name))
    exact = function(values, axis)
    slack = (np.cumsum(np.abs(values), axis) if op == "cumsum" else np.abs(exact)) * eps_of(name) * 4
    narrow = DTYPES["float64" if name == "float64" else "float32"]
    other = function(x.value.astype(narrow), axis).astype(DTYPES[name])
    return Expected(exact.astype(DTYPES[name]), 1, np.where(np.isfinite(slack), slack, 0), other=other)


def scan_cases(rng):
    for op, name in itertools.product(["cumsum", "cumprod", "cummax", "cummin"], PLAIN):
        for _ in range(4):
            meant = set()
            x = gentle(rng, name, [s for s in SHAPES if s][rng.integers(len(SHAPES) - 1)])
            axis = int(rng.integers(x.value.ndim))
            last = axis == x.value.ndim - 1 and rng.integers(2)
            text = "" if last else str(axis + 1 if rng.integers(2) else axis - x.value.ndim)
            yield case("scan", op, f"{x.lua}:{op}({text})", scan(op, x, axis, meant), meant, (name,))


# ---- ordering ----


def sortable(value):
    return value.astype(np.float32) if value.dtype == DTYPES["bfloat16"] else value


def order(value, axis):
    return np.argsort(sortable(value), axis, kind="stable")


def descending(value, axis):
    """Indices that sort in descending order, of equal entries the first one first, NaN last."""
    keys = sortable(value)
    if keys.dtype.kind == "f":
        return np.argsort(-keys, axis, kind="stable")
    keys = keys.astype(np.int64) if keys.dtype == np.bool_ else keys
    return np.argsort(~keys, axis, kind="stable")


def indices(value, meant):
    meant.add("index")
    return Expected(value.astype(np.int32))


def order_cases(rng):
    for name in PLAIN:
        for op in ("sort", "argsort", "topk", "partition", "argpartition", "unique", "searchsorted"):
            for _ in range(4):
                meant = set()
                if op == "searchsorted":
                    yield search_case(rng, name)
                    continue
                x = tensor(rng, name, [(1,), (9,), (40,), (3, 5), (2, 3, 4), (0,), (2, 0)][rng.integers(7)])
                if op == "unique":
                    yield case("order", op, f"{x.lua}:unique()", unique(x.value, meant), meant, (name,))
                    continue
                axis = int(rng.integers(x.value.ndim))
                text = str(axis + 1)
                if op == "topk":
                    k = int(rng.integers(x.value.shape[axis] + 1))
                    at = np.take(descending(x.value, axis), np.arange(k), axis)
                    results = [Expected(np.take_along_axis(x.value, at, axis)), indices(at, meant)]
                    yield case("order", op, f"{x.lua}:topk({k}, {text})", results, meant, (name,))
                    continue
                at = order(x.value, axis)
                result = Expected(np.take_along_axis(x.value, at, axis))
                if op.startswith("arg"):
                    result = indices(at, meant)
                if op.endswith("partition"):  # sorted as a whole, which is one right answer
                    k, n = int(rng.integers(-2, 8)), x.value.shape[axis]
                    if not 0 <= k < n:
                        result, meant = ERROR, {"range"}
                    text = f"{k}, {text}"
                yield case("order", op, f"{x.lua}:{op}({text})", result, meant, (name,))


def unique(value, meant):
    keys = sortable(value).ravel()
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    at = np.argsort(keys, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int) if keys.size else np.zeros(0, int)
    return [Expected(value.ravel()[at][first], either_zero=True), indices(inverse.reshape(value.shape), meant),
            indices(counts, meant)]  # fmt: skip


def search_case(rng, name):
    """Sorted values of one dtype, values to look up of another, or plain numbers."""
    meant = set()
    x = tensor(rng, name, (int(rng.integers(0, 12)),), view="")
    x = Operand(name, np.take(x.value, order(x.value, 0)))
    other = PLAIN[rng.integers(len(PLAIN))]
    if rng.integers(3) == 0:
        number = [-1, 0, 1, 100, 300, 2.5, math.inf, -math.inf][rng.integers(8)]
        values = Number(number)
        keys, wanted = sortable(x.value).astype(np.longdouble), np.longdouble(number)
        names = (name, values.kind)
    else:
        values = tensor(rng, other, [(3,), (2, 2), ()][rng.integers(3)])
        if is_float(name) or is_float(other):
            at = meet(x, values, meant)
            keys, wanted = sortable(cast(x, at)), sortable(cast(values, at))
        else:  # by value, uint64 with signed integers too
            keys, wanted = x.value.astype(np.longdouble), values.value.astype(np.longdouble)
        names = (name, other)
    right = bool(rng.integers(2))
    at = np.asarray(np.searchsorted(keys, wanted, "right" if right else "left"))
    lua = f"{x.lua}:searchsorted({values.lua}{', {right = true}' if right else ''})"
    return case("order", "searchsorted", lua, indices(at, meant), meant, names)


FAMILIES = [reduction_cases, scan_cases, order_cases]
