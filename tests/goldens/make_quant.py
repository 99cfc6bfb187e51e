#!/usr/bin/env python3
"""Makes quant/: random blocks of each GGUF format, and what the gguf package dequantises them to.

    python3 tests/goldens/make_quant.py

quant/NAME.bin: `rows` rows of `inputs` weights (64, or 256 for the K formats) as blocks of the format, then the same
weights as float32; little-endian. Codes are random bits; float16 scales are finite, of both signs, and now and then
zero or subnormal.
"""

import pathlib

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Byte offsets of the float16 values in a block.
HALVES = {
    Q.Q4_0: [0],
    Q.Q4_1: [0, 2],
    Q.Q5_0: [0],
    Q.Q5_1: [0, 2],
    Q.Q8_0: [0],
    Q.Q4_K: [0, 2],
    Q.Q5_K: [0, 2],
    Q.Q6_K: [208],
}


def main():
    out = pathlib.Path(__file__).parent / "quant"
    out.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    for kind, offsets in HALVES.items():
        block, size = GGML_QUANT_SIZES[kind]
        inputs = max(block, 64)
        rows = 1 if block == 256 else 3
        count = rows * inputs // block
        data = random.integers(0, 256, (count, size), dtype=np.uint8)
        for at in offsets:
            halves = (random.standard_normal(count) * 0.05).astype(np.float16)
            halves[0] = np.float16(-3e-6) if at == 2 else halves[0]
            data[:, at : at + 2] = halves.view(np.uint8).reshape(count, 2)
        values = dequantize(data.reshape(rows, -1), kind).astype(np.float32)
        assert values.shape == (rows, inputs) and np.isfinite(values).all()
        (out / f"{kind.name.lower()}.bin").write_bytes(data.tobytes() + values.tobytes())


main()
