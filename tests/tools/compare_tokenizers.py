#!/usr/bin/env python3
"""Compares moonlet's tokenizers with the reference, over many strings.

    python3 tests/tools/compare_tokenizers.py DRIVER TOKENIZERS [-n 100000] [--seed 1] [--only NAME] [--speed]

DRIVER is build/tests/tools/tokenizer_driver; TOKENIZERS a folder of NAME/tokenizer.json or of NAME.tar.xz that hold it.
Ids with and without special tokens, ids of special-token text read as text, decoded text (with and without special
tokens) and streamed text must all be equal. Needs the Python package `tokenizers`. The exit status is 1 after a
mismatch.
"""

import argparse
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from sample_texts import Texts  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402


def pack(texts):
    return b"".join(struct.pack("<I", len(t)) + t for t in (s.encode() for s in texts))


def drive(driver, folder, texts):
    """What the driver says of each text: three lists of ids, two texts, whether streaming agreed."""
    run = subprocess.run([driver, folder], input=pack(texts), stdout=subprocess.PIPE, check=True)
    data, at = run.stdout, 0
    for _ in texts:
        row = []
        for item in range(5):
            (n,) = struct.unpack_from("<I", data, at)
            at += 4
            if item < 3:
                row.append(list(struct.unpack_from(f"<{n}i", data, at)))
                at += 4 * n
            else:
                row.append(data[at : at + n].decode())
                at += n
        row.append(data[at] == 1)
        at += 1
        yield row
    assert at == len(data)


def expected(reference, text):
    reference.encode_special_tokens = False
    ids = reference.encode(text).ids
    plain = reference.encode(text, add_special_tokens=False).ids
    reference.encode_special_tokens = True
    as_text = reference.encode(text, add_special_tokens=False).ids
    return [
        ids,
        plain,
        as_text,
        reference.decode(ids, skip_special_tokens=False),
        reference.decode(ids, skip_special_tokens=True),
        True,
    ]


NAMES = [
    "ids with special tokens",
    "ids without",
    "ids of special-token text as text",
    "decoded",
    "decoded without special tokens",
    "streamed",
]


def compare(driver, folder, reference, texts, show=5):
    bad = [0] * len(NAMES)
    for start in range(0, len(texts), 5000):
        chunk = texts[start : start + 5000]
        for text, got in zip(chunk, drive(driver, folder, chunk)):
            try:
                want = expected(reference, text)
            except BaseException as error:  # the reference panicked; nothing to compare with
                if "Panic" not in type(error).__name__:
                    raise
                continue
            for i, name in enumerate(NAMES):
                if got[i] == want[i]:
                    continue
                bad[i] += 1
                if sum(bad) <= show:
                    print(f"  mismatch in {name}: {text!r}\n    expected {want[i]!r}\n    found    {got[i]!r}")
    return bad


def seconds(function, least=1.0):
    best, begin = 1e9, time.perf_counter()
    while time.perf_counter() - begin < least:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def speed(driver, folder, reference, seed):
    """Ratios of encoding speed: many short texts one at a time, and one large text."""
    source = Texts(seed)
    reference.encode_special_tokens = False
    work = {"short texts": [source.natural() for _ in range(3000)], "a large text": [source.document(1 << 20)]}
    ratios = []
    for name, texts in work.items():
        pairs = []
        for _ in range(3):
            run = subprocess.run(
                [driver, "-t", "1", folder],
                input=pack(texts),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            ours = float(run.stdout.split()[0])
            theirs = seconds(lambda: [reference.encode(t) for t in texts])
            pairs.append((theirs / ours, ours))
        ratio, ours = sorted(pairs)[1]
        size = sum(len(t.encode()) for t in texts)
        print(f"  {name}: {size / ours / 1e6:.1f} MB/s, {ratio:.1f} times the reference")
        ratios.append(ratio)
    return min(ratios)


def tokenizers_in(folder):
    names = set()
    for entry in os.listdir(folder):
        if entry.endswith(".tar.xz"):
            names.add(entry[: -len(".tar.xz")])
        elif os.path.exists(os.path.join(folder, entry, "tokenizer.json")):
            names.add(entry)
    return sorted(names)


def unpacked(folder, name, scratch):
    """The folder of one tokenizer: as it lies there, or out of its archive in `scratch`."""
    plain = os.path.join(folder, name)
    if os.path.exists(os.path.join(plain, "tokenizer.json")):
        return plain
    with tarfile.open(plain + ".tar.xz") as archive:
        archive.extractall(scratch, filter="data")
    return os.path.join(scratch, name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("driver")
    parser.add_argument("tokenizers")
    parser.add_argument("-n", type=int, default=100000, help="strings altogether")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only")
    parser.add_argument("--speed", action="store_true", help="measure encoding too")
    options = parser.parse_args()
    names = [n for n in tokenizers_in(options.tokenizers) if options.only in (None, n)]
    if not names:
        sys.exit(f"{options.tokenizers}: no tokenizer in it (NAME/tokenizer.json or NAME.tar.xz)")
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            folder = unpacked(options.tokenizers, name, scratch)
            reference = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
            added = [t.content for t in reference.get_added_tokens_decoder().values()]
            source = Texts(options.seed, added[:30] + added[-10:])
            texts = [source.one() for _ in range(-(-options.n // len(names)))]
            bad = compare(options.driver, folder, reference, texts)
            failed += sum(bad)
            print(
                f"{name}: {len(texts)} strings, {sum(bad)} mismatches"
                + (f" {dict(zip(NAMES, bad))}" if any(bad) else ""),
                flush=True,
            )
            if options.speed:
                speed(options.driver, folder, reference, options.seed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
