#!/usr/bin/env python3
"""Compares GGUF's `llama` tokenizers, random small ones, with SentencePiece itself.

    python3 tests/tools/compare_sentencepiece.py DRIVER [-n 100]

Pieces, scores (with many ties), types, byte fallback and the dummy prefix are drawn at random. Needs the packages
sentencepiece and protobuf. Left out: a dummy prefix together with user-defined pieces (after one of these
SentencePiece puts no space, llama.cpp and the tokenizer.json of such models do).
"""

import argparse
import os
import random
import struct
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import sentencepiece  # noqa: E402
from compare_tokenizers import drive  # noqa: E402
from sentencepiece import sentencepiece_model_pb2 as model  # noqa: E402

LETTERS = list("abcé月") + ["▁"]
PARTS = ["a", "b", "c", "é", "月", " ", " ", "ab", "  ", "ж", "[u]", "aaaa"]
STRING, ARRAY, FLOAT, INT, BOOL = 8, 9, 6, 5, 7


def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def draw(r):
    """Pieces as (text, type, score), and whether a space is put in front."""
    pieces = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)]
    if r.random() < 0.7:
        pieces += [(f"<0x{b:02X}>", 6, 0.0) for b in range(256)]
    seen = set()

    def add(text, kind, score):
        if text not in seen:
            pieces.append((text, kind, score))
            seen.add(text)

    for letter in LETTERS:
        if r.random() < 0.9:
            add(letter, 1, -float(r.randint(1, 40)))
    spread = r.choice([12, 4000])
    for _ in range(r.choice([5, 20, 60])):
        add("".join(r.choice(LETTERS) for _ in range(r.choice([2, 2, 3, 3, 4, 5]))), 1, -r.randint(1, spread) / 4)
    for text in r.sample(["▁▁", "ab", "[u]"], r.choice([0, 1, 2])):
        add(text, 4, 0.0)
    return pieces, r.random() < 0.5 and not any(kind == 4 for _, kind, _ in pieces)


def reference(pieces, prefix):
    m = model.ModelProto()
    for text, kind, score in pieces:
        m.pieces.add(piece=text, score=score, type=kind)
    m.trainer_spec.model_type = model.TrainerSpec.BPE
    m.trainer_spec.byte_fallback = any(kind == 6 for _, kind, _ in pieces)
    m.trainer_spec.vocab_size = len(pieces)
    m.trainer_spec.unk_id, m.trainer_spec.bos_id, m.trainer_spec.eos_id, m.trainer_spec.pad_id = 0, 1, 2, -1
    m.normalizer_spec.name = "identity"
    m.normalizer_spec.add_dummy_prefix = prefix
    m.normalizer_spec.remove_extra_whitespaces = False
    return sentencepiece.SentencePieceProcessor(model_proto=m.SerializeToString())


def gguf(pieces, prefix):
    pairs = [
        ("tokenizer.ggml.model", STRING, string("llama")),
        (
            "tokenizer.ggml.tokens",
            ARRAY,
            array(STRING, [string(t.replace("▁", " ") if kind == 4 else t) for t, kind, _ in pieces]),
        ),
        ("tokenizer.ggml.scores", ARRAY, array(FLOAT, [struct.pack("<f", s) for _, _, s in pieces])),
        ("tokenizer.ggml.token_type", ARRAY, array(INT, [struct.pack("<i", kind) for _, kind, _ in pieces])),
        ("tokenizer.ggml.add_space_prefix", BOOL, bytes([prefix])),
        ("tokenizer.ggml.add_bos_token", BOOL, b"\0"),
    ]
    return (
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, len(pairs))
        + b"".join(string(k) + struct.pack("<I", t) + v for k, t, v in pairs)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("driver")
    parser.add_argument("-n", type=int, default=100, help="models")
    options = parser.parse_args()
    bad = total = 0
    for seed in range(options.n):
        r = random.Random(seed)
        pieces, prefix = draw(r)
        expected = reference(pieces, prefix)
        texts = ["".join(r.choice(PARTS) for _ in range(r.randint(1, 70))) for _ in range(200)]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "m.gguf")
            with open(path, "wb") as f:
                f.write(gguf(pieces, prefix))
            for text, got in zip(texts, drive(options.driver, path, texts)):
                total += 1
                if got[0] != expected.encode(text):
                    bad += 1
                    if bad <= 5:
                        print(f"model {seed}: {text!r}\n  expected {expected.encode(text)}\n  found    {got[0]}")
    print(f"{options.n} models, {total} texts, {bad} mismatches")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
