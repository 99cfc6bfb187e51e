#!/usr/bin/env python3
"""Writes added_tokens.json: files beside a tokenizer.json, and the tokenizer that AutoTokenizer makes of them.

    python3 tests/goldens/make_added_tokens.py

Each case: the files' texts by name, the added tokens [id, text, special], ids of bos_token and eos_token, ids of texts
(without BOS), and the text of ids without special tokens.
"""

import json
import os
import tempfile

from transformers import AutoTokenizer

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "added_tokens.json")
PLAIN = {"lstrip": False, "rstrip": False, "single_word": False}
PIECES = ["<unk>", "<s>", "</s>", "a", "b", "c", "Ġ", "x", "y", "ab", "Ġa", "<", ">", "|"]
OWN = [("<unk>", 0), ("<s>", 1), ("</s>", 2)]


def token(content, **flags):
    special = flags.get("special", False)
    return {"content": content, **PLAIN, "normalized": not special, "special": special, **flags}


def tokenizer(added=None):
    if added is None:
        added = [{"id": i, **token(text, special=True)} for text, i in OWN]
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": bytes_of,
        "post_processor": None,
        "decoder": bytes_of,
        "model": {
            "type": "BPE",
            "vocab": {piece: i for i, piece in enumerate(PIECES)},
            "merges": ["a b", "Ġ a"],
        },
    }


def own(more):
    return [{"id": i, **token(text, special=True)} for text, i in OWN] + more


typed = {"__type": "AddedToken"}
CASES = {
    "nothing": ({}, {}),
    "decoder": ({"added_tokens_decoder": {"14": token("<x>", special=True), "15": token("<|y|>")}}, {}),
    "decoder flags": (
        {
            "added_tokens_decoder": {
                "14": token("<x>", special=True, lstrip=True),
                "15": token("<Y>", rstrip=True),
                "16": token("XY", single_word=True, normalized=False),
                "17": token("AB", normalized=True),
            }
        },
        {},
    ),
    "decoder out of order, with a gap": (
        {"added_tokens_decoder": {"30": token("<x>", special=True), "9": token("ab"), "16": token("<y>")}},
        {},
    ),
    "decoder repeats tokenizer.json": (
        {"added_tokens_decoder": {str(i): token(text, special=True) for text, i in OWN}},
        {},
    ),
    "decoder changes flags": (
        {"added_tokens_decoder": {"2": token("</s>", special=True, lstrip=True), "1": token("<s>", lstrip=True)}},
        {},
    ),
    "decoder gives an id that another has": ({"added_tokens_decoder": {"2": token("<x>", special=True)}}, {}),
    "eos listed as plain": (
        {"eos_token": "<x>", "added_tokens_decoder": {"14": token("<x>"), "15": token("<y>")}},
        {},
    ),
    "eos of no list": ({"eos_token": "<x>", "bos_token": "<s>"}, {}),
    "eos of the model": ({"eos_token": "ab"}, {}),
    "names": (
        {
            "pad_token": "<p>",
            "mask_token": {"content": "<m>", **PLAIN, "lstrip": True, "normalized": True, **typed},
            "cls_token": "<c>",
            "unk_token": None,
            "image_token": "<i>",
            "bos_token": "<q>",
            "tokens": "<z>",
        },
        {},
    ),
    "additional": ({"additional_special_tokens": ["<x>", "<y>", "</s>", "ab"]}, {}),
    "additional objects": (
        {"additional_special_tokens": [{"content": "<x>", **PLAIN, "rstrip": True, "normalized": False, **typed}]},
        {},
    ),
    "additional beside decoder": (
        {
            "additional_special_tokens": ["<x>", "<y>"],
            "added_tokens_decoder": {"14": token("<y>", special=True, lstrip=True)},
        },
        {},
    ),
    "extra": ({"extra_special_tokens": ["<x>", "<y>"], "additional_special_tokens": ["<z>"]}, {}),
    "extra, empty": ({"extra_special_tokens": [], "additional_special_tokens": ["<z>"]}, {}),
    "extra by names": ({"extra_special_tokens": {"image": "<x>", "boi_token": "<y>"}}, {}),
    "added_tokens.json": ({"eos_token": "<x>"}, {"added_tokens.json": {"<y>": 15, "<x>": 14}}),
    "added_tokens.json, ids of others": (
        {},
        {"added_tokens.json": {"<y>": 2, "<x>": 14, "<z>": 14, "ab": 20}},
    ),
    "added_tokens.json beside a decoder": (
        {"added_tokens_decoder": {"14": token("<x>")}},
        {"added_tokens.json": {"<y>": 15}, "special_tokens_map.json": {"eos_token": "<z>"}},
    ),
    "special_tokens_map.json": (
        {"eos_token": "</s>"},
        {
            "special_tokens_map.json": {
                "eos_token": {"content": "<x>", **PLAIN, "rstrip": True, "normalized": False},
                "pad_token": "<p>",
                "additional_special_tokens": ["<y>", "<z>"],
            },
            "added_tokens.json": {"<y>": 14, "<x>": 15, "<z>": 16},
        },
    ),
    "special_tokens_map.json, extra": (
        {"extra_special_tokens": ["<z>"]},
        {"special_tokens_map.json": {"extra_special_tokens": ["<y>", "<z>"], "additional_special_tokens": ["<w>"]}},
    ),
    "tokenizer.json says one twice": (
        {},
        {
            "tokenizer.json": tokenizer(
                own([{"id": 14, **token("<x>", special=True)}, {"id": 14, **token("<x>", lstrip=True)}])
            )
        },
    ),
    "tokenizer.json has more": (
        {"added_tokens_decoder": {"15": token("<y>", special=True)}},
        {"tokenizer.json": tokenizer(own([{"id": 14, **token("<x>", special=True)}]))},
    ),
    "none of tokenizer.json": ({"eos_token": "</s>"}, {"tokenizer.json": tokenizer([])}),
}

TEXTS = [
    "a <x> b<y>c",
    "a <X> B <Y> C",
    "a xy b axyb",
    "ab AB a ab",
    "x <s> a </s> b",
    "a <|y|> <p> <m> <c> <i> <z> <q> <w> b",
]


def case(name, config, files):
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    files = {"tokenizer_config.json": config, "tokenizer.json": tokenizer(), **files}
    with tempfile.TemporaryDirectory() as folder:
        for file, value in files.items():
            with open(os.path.join(folder, file), "w") as f:
                json.dump(value, f)
        t = AutoTokenizer.from_pretrained(folder)
    ids = list(range(len(t)))
    return {
        "name": name,
        "files": {file: json.dumps(value, ensure_ascii=False) for file, value in sorted(files.items())},
        "added": [[i, str(text), t.decode([i], skip_special_tokens=True) == ""]
                  for i, text in sorted(t.added_tokens_decoder.items())],
        "bos": t.bos_token_id,
        "eos": t.eos_token_id,
        "size": len(t),
        "encoded": [[text, t.encode(text, add_special_tokens=False)] for text in TEXTS],
        "decoded": t.decode(ids, skip_special_tokens=True),
    }


if __name__ == "__main__":
    cases = [case(name, *files) for name, files in CASES.items()]
    with open(OUT, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n")
    print(f"{OUT}: {len(cases)} cases")
