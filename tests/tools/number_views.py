"""Cases of operations that move values without computing with them: views, repetitions, edges."""

import numpy as np
from number_oracle import Expected, case
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


FAMILIES = [view_cases]
