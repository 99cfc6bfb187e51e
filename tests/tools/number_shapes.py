"""Cases of making, joining, looking up, writing and multiplying tensors, and of reading them, with what NumPy gives."""

import itertools
import math

import numpy as np
from number_oracle import ERROR, LATE, Expected, case, cast, eps_of, fits, outside, promote, ulps_of, wide_of
from number_reductions import gentle
from number_values import (
    DTYPES,
    INTS,
    PLAIN,
    PLAIN_FLOATS,
    PLAIN_INTEGERS,
    Number,
    Operand,
    braces,
    is_float,
    limits,
    literal,
    nested,
    tensor,
)


def plain_number(rng):
    if rng.integers(2):
        return Number(PLAIN_INTEGERS[rng.integers(len(PLAIN_INTEGERS))])
    return Number(PLAIN_FLOATS[rng.integers(len(PLAIN_FLOATS))])


def held(number, name, meant):
    """A plain number as a value of a dtype: an array, or ERROR."""
    if is_float(name):
        return cast(number, name)
    if name == "bool" and fits(number.value, "int64"):
        return np.array(number.value != 0)
    if name == "bool" or not fits(number.value, name):
        if number.kind == "float":
            meant.add("no-fraction")
        return ERROR
    return np.array(int(number.value), dtype=DTYPES[name])


# ---- making ----


def made(rng, name):
    """full, tensor of nested lists, and pad, of one plain number."""
    number, meant = plain_number(rng), set()
    value = held(number, name, meant)
    full = value if isinstance(value, str) else Expected(np.full((2, 2), value, DTYPES[name]))
    names = (name, number.kind)
    yield case("make", "full", f'ml.full({{2, 2}}, {number.lua}, {{dtype = "{name}"}})', full, meant, names)
    full = value if isinstance(value, str) else Expected(np.full((1, 2), value, DTYPES[name]))
    lua = f'ml.tensor({{{{{number.lua}, {number.lua}}}}}, {{dtype = "{name}"}})'
    yield case("make", "tensor", lua, full, meant, names)
    x = tensor(rng, name, [(3,), (2, 2)][rng.integers(2)])
    widths = [[int(n) for n in rng.integers(0, 3, 2)] for _ in range(x.value.ndim)]
    lua = f"{x.lua}:pad({braces([braces(w) for w in widths])}, {number.lua})"
    if isinstance(value, str) and not np.any(widths):
        return  # nothing would have to hold the number
    padded = value if isinstance(value, str) else Expected(np.pad(x.value, widths, constant_values=value))
    yield case("make", "pad", lua, padded, meant, names)


def untyped(number):
    """tensor and full without a dtype: int32, float32, bool."""
    if number.kind == "float":
        return Expected(cast(number, "float32"))
    return Expected(np.array(number.value, np.int32)) if fits(number.value, "int32") else ERROR


def arange(rng):
    start, stop = (int(v) for v in rng.choice([0, 1, -3, 5, 250, 2**31 - 2, -(2**31), 2**40, 2**53 - 1, 2**62], 2))
    step = int(rng.choice([1, 2, 3, -1, -7, 100]))
    stop = start + int(rng.integers(-3, 9)) * step + int(rng.integers(-2, 3)) if rng.integers(4) else stop
    if abs(stop - start) // abs(step) > 1000:
        stop = start + step * 5
    values = list(range(start, stop, step))
    name = rng.choice(PLAIN[:-1]) if rng.integers(2) else None
    meant = set()
    if name is None:
        wide = any(not -(2**31) <= v < 2**31 for v in values)
        meant.add("plain")
        result = Expected(np.array(values, np.int64 if wide else np.int32))
        if not values:  # which dtype an empty one has follows from its start, perhaps
            return
    elif is_float(name):
        result = Expected(np.array(values, np.float64).astype(DTYPES[name]))
    else:
        low, high = limits(name)
        result = Expected(np.array(values, DTYPES[name])) if all(low <= v <= high for v in values) else ERROR
    dtype = f', {{dtype = "{name}"}}' if name else ""
    yield case("make", "arange", f"ml.arange({start}, {stop}, {step}{dtype})", result, meant, (str(name), "integers"))


def arange_floats(rng):
    start, step = float(rng.choice([0.0, -1.0, 0.5, 1e6, 0.1])), float(rng.choice([0.1, 0.25, 1.0, -0.3, 1e-3, 2.5]))
    n = int(rng.integers(0, 12))
    stop = start + step * (n - 0.5)
    values = np.arange(start, stop, step)
    name = [None, "float32", "float64", "float16", "bfloat16"][rng.integers(5)]
    meant = {"plain"} if name is None else set()
    result = Expected(values.astype(DTYPES[name or "float32"]), 1, (abs(start) + abs(stop)) * 2.0**-50)
    dtype = f', {{dtype = "{name}"}}' if name else ""
    lua = f"ml.arange({literal(start)}, {literal(stop)}, {literal(step)}{dtype})"
    yield case("make", "arange", lua, result, meant, (str(name), "floats"))


def linspace(rng):
    first, last = (float(v) for v in rng.choice([0.0, 1.0, -1.0, 1e-3, 1e6, -5.5, 0.1, 3e38], 2))
    n = int(rng.choice([0, 1, 2, 3, 10, 50]))
    value = np.linspace(first, last, n).astype(np.float32)
    slack = max(abs(first), abs(last)) * 2.0**-50
    lua = f"ml.linspace({literal(first)}, {literal(last)}{f', {n}' if n != 50 or rng.integers(2) else ''})"
    yield case("make", "linspace", lua, Expected(value, 1, slack), {"plain"}, ("float32",))


def make_cases(rng):
    for name in PLAIN:
        for _ in range(6):
            yield from made(rng, name)
    for value in [n for n in PLAIN_INTEGERS + PLAIN_FLOATS + [True, False] if rng.integers(3) == 0]:
        number = Number(value)
        result = Expected(np.array(value)) if isinstance(value, bool) else untyped(number)
        yield case("make", "tensor", f"ml.tensor({number.lua})", result, {"plain"}, ("none", number.kind))
    for _ in range(30):
        yield from arange(rng)
        yield from arange_floats(rng)
        yield from linspace(rng)
    for name in PLAIN:
        n, m, k = (int(v) for v in rng.integers(0, 5, 3))
        for op in ("zeros", "ones"):
            value = getattr(np, op)((n, m), DTYPES[name])
            yield case("make", op, f'ml.{op}({{{n}, {m}}}, {{dtype = "{name}"}})', Expected(value), (), (name,))
        lua = f'ml.eye({n}, {m}, {{dtype = "{name}"}})'
        yield case("make", "eye", lua, Expected(np.eye(n, m).astype(DTYPES[name])), (), (name,))
        value = Expected(np.tri(n, m, k - 2, np.float32))
        yield case("make", "tri", f"ml.tri({n}, {m}, {k - 2})", value, (), ("float32",))
        x = tensor(rng, name, [(3, 4), (2, 3, 3)][rng.integers(2)])
        for op in ("tril", "triu"):
            value = getattr(np, op)(x.value, k - 2)
            yield case("make", op, f"{x.lua}:{op}({k - 2})", Expected(value.astype(DTYPES[name])), (), (name,))


# ---- reading ----


def as_lua(value, name):
    """How the driver writes a value that a tensor was read into."""
    if name == "bool":
        return f"b;{'true' if value else 'false'}"
    if is_float(name):
        return "f;" + np.float64(value).tobytes().hex()
    return f"i;{int(value) - 2**64 if int(value) >= 2**63 else int(value)}"


def listed(array, name):
    if array.ndim == 0:
        return as_lua(array[()], name)
    return "[" + "|".join(listed(part, name) for part in array) + "]"


def read_cases(rng):
    for name in PLAIN:
        for _ in range(4):
            x = tensor(rng, name, (), view="")
            if x.value == x.value:  # a NaN's bits are its own
                yield case("read", "item", f"{x.lua}:item()", [as_lua(x.value[()], name)], (), (name,))
            x = tensor(rng, name)
            if x.value.ndim and not np.any(x.value != x.value):
                yield case("read", "tolist", f"{x.lua}:tolist()", [listed(x.value, name)], (), (name,))
            text = "s;" + np.ascontiguousarray(x.value).tobytes().hex()
            yield case("read", "tobytes", f"{x.lua}:tobytes()", [text], (), (name,))
            lua = f'ml.from_bytes({x.lua}:tobytes(), {braces(x.value.shape)}, "{name}")'
            yield case("read", "from_bytes", lua, Expected(x.value), (), (name,))
            x = tensor(rng, name, [(3,), (2, 2), (1, 3)][rng.integers(3)], view="")
            if name == "uint64":
                x = Operand(name, x.value >> np.uint64(1))  # what plain numbers can say
            lua = f'ml.tensor({nested(x.value)}, {{dtype = "{name}"}})'
            yield case("make", "nested", lua, Expected(x.value), (), (name,))


# ---- looking up, writing, joining ----


def index_list(rng, size, n, meant):
    """0-based indices; one in twelve lists has one that is out of range."""
    if size and rng.integers(12):
        return rng.integers(0, size, n)
    meant.add("range")
    bad = rng.integers(0, max(size, 1), n)
    bad[rng.integers(n)] = [-1, size, size + 5, -size - 1][rng.integers(4)]
    return bad


def look_up(rng, name):
    meant = set()
    x = tensor(rng, name, [(5,), (3, 4), (2, 3, 2)][rng.integers(3)])
    axis = int(rng.integers(x.value.ndim))
    index = index_list(rng, x.value.shape[axis], int(rng.integers(1, 6)), meant)
    kind = INTS[rng.integers(len(INTS))]
    given = Operand("int64", index.astype(np.int64))
    lua = braces(index.tolist())
    if rng.integers(2) and index.min() >= limits(kind)[0]:
        lua = Operand(kind, index.astype(DTYPES[kind])).lua
    result = LATE if "range" in meant else Expected(np.take(x.value, given.value, axis))
    yield case("index", "take", f"{x.lua}:take({lua}, {axis + 1})", result, meant, (name,))
    meant = set()
    if x.value.size == 0:
        return
    index = rng.integers(0, x.value.shape[axis], x.value.shape)
    given = Operand("int32", index.astype(np.int32))
    value = np.take_along_axis(x.value, index, axis)
    yield case("index", "gather", f"{x.lua}:{['gather', 'take_along_axis'][rng.integers(2)]}({given.lua}, {axis + 1})",
               Expected(value), meant, (name,))  # fmt: skip


def stored(values, name, meant):
    """Values for a write: a plain number must be held, tensors of other dtypes are converted."""
    if isinstance(values, Number):
        if values.kind == "float" and not is_float(name) and name != "bool":
            if not math.isfinite(values.value) or not limits(name)[0] <= math.trunc(values.value) <= limits(name)[1]:
                meant.add("float-to-int")
                return ERROR
            return np.array(math.trunc(values.value), dtype=DTYPES[name])
        return np.array(values.value != 0) if name == "bool" else held(values, name, meant)
    if is_float(values.name) and not is_float(name) and outside(values.value, name):
        meant.add("float-to-int")
    return cast(values, name)


def write(rng, name):
    x = tensor(rng, name, [(5,), (3, 4), (4, 1)][rng.integers(3)], view=["", "transposed", "flipped"][rng.integers(3)])
    axis = int(rng.integers(x.value.ndim))
    other = name if rng.integers(2) else PLAIN[rng.integers(len(PLAIN))]
    values = plain_number(rng) if rng.integers(2) else tensor(rng, other, (), view="")
    names = (name, values.name or values.kind)
    meant = set()
    value = stored(values, name, meant)
    index = np.argsort(rng.random(x.value.shape), axis)
    given = Operand("int32", index.astype(np.int32))
    op = ["put_along_axis", "scatter"][rng.integers(2)]
    if isinstance(value, str):
        result = ERROR
    else:
        changed = x.value.copy()
        np.put_along_axis(changed, index, value, axis)
        result = Expected(changed)
    yield case("write", op, f"{x.lua}:{op}({given.lua}, {values.lua}, {axis + 1})", result, meant, names)
    if not isinstance(value, str):
        changed = x.value.copy()
        changed[1:3] = value
        result = Expected(changed)
    yield case("write", "slice_update", f"{x.lua}:slice_update({{{{2, 3}}}}, {values.lua})", result, meant, names)
    result = ERROR if isinstance(value, str) else Expected(x.value + value)
    if result == ERROR or name not in ("bool", "bfloat16"):
        lua = f"{x.lua}:scatter_add({given.lua}, {values.lua}, {axis + 1})"
        yield case("write", "scatter_add", lua, result, meant, names)


def join(rng, left, right):
    meant = set()
    a, b = tensor(rng, left, (3, 2), view=""), tensor(rng, right, (3, 2), view="")
    name = promote(left, right, meant)
    op = ["concat", "stack"][rng.integers(2)]
    axis = int(rng.integers(2))
    function = np.concatenate if op == "concat" else np.stack
    value = function([cast(a, name), cast(b, name)], axis)
    yield case("join", op, f"ml.{op}({{{a.lua}, {b.lua}}}, {axis + 1})", Expected(value), meant, (left, right))


def index_cases(rng):
    for name in PLAIN:
        for _ in range(6):
            yield from look_up(rng, name)
            yield from write(rng, name)
        for other in PLAIN:
            yield from join(rng, name, other)


# ---- products ----


def product_dtype(a, b, meant):
    name = promote(a, b, meant)
    if name == "bool":
        meant.add("bool")
        return "int32"
    return name


def multiplied(function, operands, meant):
    """A product by `function` of arrays: integers wrap, floats are compared with a wider computation."""
    name = product_dtype(operands[0].name, operands[1].name, meant)
    if not is_float(name):
        wide = [x.value.astype(object) for x in operands]
        sizes = np.asarray(function(*[np.abs(x) for x in wide]))
        largest = max((int(v) for v in sizes.ravel()), default=0)
        if largest >= limits(name)[1] // 2 and largest >= 2**53:
            return None  # neither exact nor near
        slack = 0.0
        if largest >= 2**53:
            meant.add("product")
            slack = largest * 2.0**-50
        return Expected(slack=slack, value=np.asarray(function(*[cast(x, name) for x in operands])))
    wide = [cast(x, name).astype(wide_of(name)) for x in operands]
    size = np.asarray(function(*[np.abs(x) for x in wide]))
    value = np.asarray(function(*wide))
    slack = np.where(np.isfinite(size), size, 0) * eps_of(name) * 8
    if np.any(np.isfinite(size) & (size > (1e300 if name == "float64" else 1e38))):
        return None
    return Expected(value.astype(DTYPES[name]), ulps_of("matmul", name), slack)


def inner(a, b):
    return np.inner(a, b) if np.ndim(a) and np.ndim(b) else a * b  # NumPy's takes 0 times NaN for 0 here


PRODUCTS = {
    "matmul": ([((2, 3), (3, 4)), ((3,), (3, 2)), ((2, 3), (3,)), ((5,), (5,)), ((2, 2, 3), (3, 2)), ((2, 0), (0, 3)),
                ((20, 33), (33, 18))], np.matmul),
    "inner": ([((3,), (3,)), ((2, 3), (4, 3)), ((), (3,)), ((2, 3), ())], inner),
    "outer": ([((3,), (2,)), ((2, 2), (3,)), ((), (2,))], np.outer),
}  # fmt: skip
AXES = [(1, "1"), (0, "0"), ([[0, 1], [1, 0]], "{{1, 2}, {2, 1}}"), ([[1], [0]], "{{-1}, {1}}")]
EQUATIONS = ["ij,jk->ik", "ij,jk", "ij,kj->ik", "ii,ij->j", "ij,ij->", "ij,ij->ij", "ij,jk->ki", "ij,jj->i"]
SUMMED_FIRST = ["ij,jk->j", "ij,jk->k", "ij,kl->", "ij,kl->il"]  # which hides infinities times 0


def view_for_product(rng, name, shape):
    """An operand of this shape, as it is or through a view."""
    if len(shape) == 2 and rng.integers(2):
        return gentle_like(rng, name, shape[::-1]).view("transposed", rng)
    x = gentle_like(rng, name, shape)
    return x.view(["", "flipped"][rng.integers(2)], rng)


def gentle_like(rng, name, shape):
    while True:
        x = gentle(rng, name, shape)
        if ":" not in x.lua:
            return x


def product_cases(rng):
    for left, right in itertools.product(PLAIN, PLAIN):
        op = list(PRODUCTS)[rng.integers(len(PRODUCTS))]
        shapes, function = PRODUCTS[op]
        one, two = shapes[rng.integers(len(shapes))]
        a, b, meant = view_for_product(rng, left, one), view_for_product(rng, right, two), set()
        result = multiplied(function, [a, b], meant)
        if result:
            yield case("product", op, f"{a.lua}:{op}({b.lua})", result, meant, (left, right))
        a, b, meant = view_for_product(rng, left, (3, 3)), view_for_product(rng, right, (3, 3)), set()
        name = promote(left, right, set())
        finite = all(np.all(np.isfinite(cast(x, name).astype(np.float64))) for x in (a, b))
        equations = EQUATIONS + SUMMED_FIRST if finite else EQUATIONS
        equation = equations[rng.integers(len(equations))]
        result = multiplied(lambda x, y, e=equation: np.einsum(e, x, y), [a, b], meant)
        if result:
            lua = f'ml.einsum("{equation}", {{{a.lua}, {b.lua}}})'
            yield case("product", "einsum", lua, result, meant, (left, right))
        a, b, meant = view_for_product(rng, left, (2, 3)), view_for_product(rng, right, (3, 2)), set()
        axes, text = AXES[rng.integers(len(AXES))]
        result = multiplied(lambda x, y, n=axes: np.tensordot(x, y, n), [a, b], meant)
        if result:
            yield case("product", "tensordot", f"{a.lua}:tensordot({b.lua}, {text})", result, meant, (left, right))


# ---- the rest ----


def nan_to_num_cases(rng):
    for name in PLAIN:
        for _ in range(3):
            x = tensor(rng, name)
            values = x.value.astype(np.float32) if name == "bfloat16" else x.value
            if rng.integers(2) and is_float(name):
                nan, high, low = (float(v) for v in rng.choice([0.5, -1.0, 7.0, 100.0], 3))
                value = np.nan_to_num(values, nan=nan, posinf=high, neginf=low)
                lua = f"{x.lua}:nan_to_num({literal(nan)}, {literal(high)}, {literal(low)})"
            else:
                most = {"bfloat16": {"posinf": 3.3895313892515355e38, "neginf": -3.3895313892515355e38}}.get(name, {})
                value, lua = np.nan_to_num(values, **most), f"{x.lua}:nan_to_num()"
            yield case("unary", "nan_to_num", lua, Expected(np.asarray(value).astype(DTYPES[name])), (), (name,))


FAMILIES = [make_cases, read_cases, index_cases, product_cases, nan_to_num_cases]
