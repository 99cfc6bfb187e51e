"""Cases of operations that move values without computing with them: views, repetitions, edges, parts."""

import numpy as np
from number_oracle import ERROR, Expected, case
from number_values import PLAIN, braces, tensor


def place(rng, axis, ndim):
    """An axis, 0-based, as Lua text: counted from the front or from the back."""
    return str(axis + 1 if rng.integers(2) else axis - ndim)


def ranges(rng, shape):
    """A range of each axis, as NumPy and as Lua write it."""
    slices, text = [], []
    for n in shape:
        first, last = sorted(int(i) for i in rng.integers(0, max(n, 1), 2))
        step = int(rng.integers(1, 3))
        if n == 0 or rng.integers(4) == 0:
            slices.append(slice(None))
            text.append("{}")
        elif rng.integers(2):
            slices.append(slice(first, last + 1, step))
            text.append(f"{{{first + 1}, {last + 1}, {step}}}")
        else:
            slices.append(slice(last, first - 1 if first else None, -step))
            text.append(f"{{{last + 1}, {first + 1}, {-step}}}")
    return tuple(slices), "{" + ", ".join(text) + "}"


def of_axes(rng, x):
    """(method, arguments, value) of what is about axes."""
    v, ndim = x.value, x.value.ndim
    axis, other = (int(a) for a in rng.integers(0, ndim, 2))
    at, to, n = place(rng, axis, ndim), place(rng, other, ndim), int(rng.integers(0, 4))
    shift, where = int(rng.integers(-5, 6)), int(rng.integers(ndim + 1))
    order = rng.permutation(ndim)
    slices, text = ranges(rng, v.shape)
    yield "transpose", braces(order + 1), v.transpose(order)
    yield "swapaxes", f"{at}, {to}", v.swapaxes(axis, other)
    yield "moveaxis", f"{at}, {to}", np.moveaxis(v, axis, other)
    yield "flip", at, np.flip(v, axis)
    yield "roll", f"{shift}, {at}", np.roll(v, shift, axis)
    yield "roll", str(shift), np.roll(v, shift)
    yield "repeat_interleave", f"{n}, {at}", np.repeat(v, n, axis)
    yield "repeat_interleave", str(n), np.repeat(v, n)
    yield "expand_dims", str(where + 1), np.expand_dims(v, where)
    yield "tile", braces([n, 2]), np.tile(v, (n, 2))
    yield "flatten", "", v.ravel()
    yield "reshape", braces([-1, 1] if v.size else [0]), v.reshape(-1, 1) if v.size else v.reshape(0)
    yield "slice", text, v[slices]
    yield "broadcast_to", braces((2,) + v.shape), np.broadcast_to(v, (2,) + v.shape)
    if v.ndim <= 2:
        k = int(rng.integers(-2, 3))
        yield "diag", str(k), np.diag(v, k)
    if 1 in v.shape:
        yield "squeeze", "", np.squeeze(v)


def view_cases(rng):
    shapes = [(5,), (3, 4), (2, 3, 2), (4, 1), (0,), (2, 0)]
    for name in PLAIN:
        for _ in range(2):
            x = tensor(rng, name, shapes[rng.integers(len(shapes))])
            for method, arguments, value in of_axes(rng, x):
                yield case("view", method, f"{x.lua}:{method}({arguments})", Expected(np.asarray(value)), (), (name,))


def split(rng, x):
    """(arguments, parts): a count, which has to divide the size, or rising positions."""
    axis = int(rng.integers(x.value.ndim))
    size, at = x.value.shape[axis], place(rng, axis, x.value.ndim)
    if rng.integers(2):
        n = int(rng.integers(1, 5))
        return f"{n}, {at}", np.split(x.value, n, axis) if size % n == 0 else None
    ends = sorted(int(n) for n in rng.integers(0, size + 1, rng.integers(1, 4)))
    return f"{braces(ends)}, {at}", np.split(x.value, ends, axis)


def as_strided(rng, x):
    """(arguments, value) of entries of the row-major values; now and then one lies outside."""
    flat = x.value.ravel()
    shape, strides = [int(n) for n in rng.integers(1, 4, 2)], [int(n) for n in rng.integers(-2, 4, 2)]
    offset = int(rng.integers(0, 4))
    at = offset + np.arange(shape[0])[:, None] * strides[0] + np.arange(shape[1]) * strides[1]
    inside = np.all((at >= 0) & (at < flat.size))
    return f"{braces(shape)}, {braces(strides)}, {offset}", flat[at] if inside else None


def part_cases(rng):
    shapes = [(6,), (4, 3), (2, 3, 2), (12,), (0,)]
    for name in PLAIN:
        for _ in range(3):
            x = tensor(rng, name, shapes[rng.integers(len(shapes))])
            arguments, parts = split(rng, x)
            results = ERROR if parts is None else [Expected(p) for p in parts]
            yield case("view", "split", f"unpack({x.lua}:split({arguments}))", results, (), (name,))
            x = tensor(rng, name, shapes[rng.integers(len(shapes))])
            arguments, value = as_strided(rng, x)
            result = ERROR if value is None else Expected(value)
            meant = {"range"} if value is None else ()
            yield case("view", "as_strided", f"{x.lua}:as_strided({arguments})", result, meant, (name,))


FAMILIES = [view_cases, part_cases]
