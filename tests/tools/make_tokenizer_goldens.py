#!/usr/bin/env python3
"""Writes tests/goldens/tokenizers: a few hundred texts, and what the reference makes of them.

    python3 tests/tools/make_tokenizer_goldens.py TOKENIZERS [SMOLLM2.gguf]

TOKENIZERS is a folder of NAME.tar.xz. With the GGUF file (and the package gguf) its tokenizer is rebuilt in the
reference from vocabulary and merges. texts.json holds the texts, NAME.json for each text the ids (with special
tokens, less `prefix` and `suffix`, which are the same for all), the ids of special-token text read as text where they
differ, and CRC-32 of the decoded texts.
"""

import json
import os
import sys
import tarfile
import tempfile
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from sample_texts import CODE, CONTRACTIONS, EMOJI, MARKS, PHRASES, SPACES, Texts  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<bos>",
    "<end_of_turn>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<think>",
    "<|im_start",
    "<s>",
]
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "goldens", "tokenizers")


def choose():
    texts = ["", " ", "Hello, world!"] + [p for name in sorted(PHRASES) for p in PHRASES[name]] + [c[:60] for c in CODE]
    texts += [
        "".join(EMOJI),
        "a" + "".join(s + "b" for s in SPACES),
        " ".join(CONTRACTIONS),
        " ".join(MARKS),
        "".join(SPECIAL),
        " x ".join(SPECIAL),
    ]
    texts += [unit * 40 for unit in (" ", "a", "\n", "=", "月", "😀", "é")]
    source = Texts(20, SPECIAL)
    texts += [source.one()[:48] for _ in range(170)]
    return sorted(set(texts), key=texts.index)


def golden(reference, texts):
    def crc(ids, skip):
        return zlib.crc32(reference.decode(ids, skip_special_tokens=skip).encode())

    reference.encode_special_tokens = False
    frame = reference.encode("").ids
    mark = reference.encode("x").ids
    start = next((i for i in range(len(frame)) if mark[i] != frame[i]), len(frame))
    rows, as_text, decoded, skipped = [], {}, [], []
    for i, text in enumerate(texts):
        reference.encode_special_tokens = False
        whole = reference.encode(text).ids
        ids = reference.encode(text, add_special_tokens=False).ids
        assert whole == frame[:start] + ids + frame[start:]
        rows.append(ids)
        decoded.append(crc(whole, False))
        skipped.append(crc(whole, True))
        reference.encode_special_tokens = True
        plain = reference.encode(text, add_special_tokens=False).ids
        if plain != ids:
            as_text[str(i)] = plain
    return {
        "prefix": frame[:start],
        "suffix": frame[start:],
        "ids": rows,
        "as_text": as_text,
        "decoded": decoded,
        "skipped": skipped,
    }


def from_gguf(path):
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    tokens, types, merges = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "token_type", "merges"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "normalizer": None,
                "post_processor": None,
                "added_tokens": [{"id": i, "content": t, **flags} for i, t in enumerate(tokens) if types[i] == 3],
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [
                        {"type": "Digits", "individual_digits": True},
                        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                    ],
                },
                "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                "model": {
                    "type": "BPE",
                    "dropout": None,
                    "unk_token": None,
                    "continuing_subword_prefix": None,
                    "end_of_word_suffix": None,
                    "fuse_unk": False,
                    "byte_fallback": False,
                    "vocab": {t: i for i, t in enumerate(tokens)},
                    "merges": merges,
                },
            }
        )
    )


def write(name, value):
    with open(os.path.join(FOLDER, name + ".json"), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def main():
    os.makedirs(FOLDER, exist_ok=True)
    texts = choose()
    write("texts", texts)
    for archive in sorted(os.listdir(sys.argv[1])):
        name = archive[: -len(".tar.xz")]
        with tempfile.TemporaryDirectory() as scratch, tarfile.open(os.path.join(sys.argv[1], archive)) as tar:
            tar.extractall(scratch, filter="data")
            write(name, golden(Tokenizer.from_file(os.path.join(scratch, name, "tokenizer.json")), texts))
    if len(sys.argv) > 2:
        write("smollm2", golden(from_gguf(sys.argv[2]), texts))


if __name__ == "__main__":
    main()
