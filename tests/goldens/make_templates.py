#!/usr/bin/env python3
"""Records what transformers renders, for tests/lua/test_jinja.lua and tests/lua/test_chat.lua.

Usage: python3 tests/goldens/make_templates.py FOLDER SMOLLM2.gguf

FOLDER holds gemma3.tar.xz, qwen2_5.tar.xz, qwen3.tar.xz, llama3_1.tar.xz and gpt2.tar.xz (tokenizer.json and
tokenizer_config.json). Needs transformers. Writes beside cases.txt (one template a line; a line that is a JSON string
stands for the text in it):
  cases.json  the templates of cases.txt and what jinja2, as transformers sets it up, makes of them
  chat.json   conversations, and what apply_chat_template makes of them with each checkpoint's template
Templates of checkpoints are other people's text and are not recorded.
"""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile

import transformers
from still_clock import NOW, chat

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")

CONTEXT = {
    "messages": [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello <b>&'\"", "n": 3}],
    "x": 3,
    "y": 2.5,
    "s": "héllo Wörld ß",
    "e": "",
    "l": [3, 1, 2],
    "d": {"b": 1, "a": [1, None, True], "c": {"k": "v"}},
    "n": None,
    "t": True,
    "f": False,
    "words": ["b", "A", "c", "a"],
    "multi": "a\nb\r\nc\n\nd",
    "neg": -7,
    "u": [{"n": "x", "g": 1}, {"n": "Y", "g": 2}, {"n": "z", "g": 1}],
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather <now> & \"then\", in °C",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where"},
                "days": {"type": "integer", "minimum": 1, "default": 1.0},
            },
            "required": ["city"],
        },
    },
}
TIME = {
    "type": "function",
    "function": {"name": "time", "description": "", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}}
CALL_TEXT = {"type": "function", "function": {"name": "time", "arguments": "{\"zone\": \"UTC\"}"}}


def user(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def tool(text):
    return {"role": "tool", "content": text}


CONVERSATIONS = [
    ("one question", [user("What is a tide?")], {"add_generation_prompt": True}),
    (
        "system and several turns",
        [system("Be brief."), user("Hi"), said("Hello."), user("Why?")],
        {"add_generation_prompt": True},
    ),
    ("no generation prompt", [user("Hi"), said("Hello."), user("Bye"), said("Bye.")], {}),
    (
        "tools offered",
        [system("Use tools."), user("Weather in Zürich?")],
        {"tools": [WEATHER, TIME], "add_generation_prompt": True},
    ),
    (
        "tool calls and answers",
        [
            user("Weather and time?"),
            said("", tool_calls=[CALL, CALL_TEXT]),
            tool("{\"t\": 21.5}"),
            tool("12:00"),
            said("21.5 °C at noon."),
            user("Thanks"),
        ],
        {"tools": [WEATHER, TIME], "add_generation_prompt": True},
    ),
    (
        "tool call after words",
        [system("S"), user("Time?"), said("Let me look.", tool_calls=[CALL_TEXT]), tool("12:00")],
        {"add_generation_prompt": True},
    ),
    (
        "thinking in the content",
        [user("2+2?"), said("<think>\nIt is\n4.\n</think>\n\n4."), user("3+3?"), said("<think>six</think>6")],
        {},
    ),
    (
        "reasoning_content",
        [
            user("2+2?"),
            said("4.", reasoning_content="\nEasy.\n"),
            user("So?"),
            said("", reasoning_content="Hm.", tool_calls=[CALL]),
            tool("x"),
        ],
        {"add_generation_prompt": True},
    ),
    (
        "thinking off",
        [user("Hi /no_think")],
        {"add_generation_prompt": True, "template_vars": {"enable_thinking": False}},
    ),
    (
        "odd white space",
        [system("  \n Be\tkind.\u00a0\n"), user("\n\n  a  \r\n b\u2003 "), said(" \n"), user("\u3000")],
        {"add_generation_prompt": True},
    ),
    (
        "Unicode",
        [user("Ψυχή 中文 हिन्दी 👩‍👩‍👧‍👦 é e\u0301 \u200b ﷽"), said("Ω≈ç√ 🇨🇭"), user("𝔘𝔫𝔦")],
        {"add_generation_prompt": True},
    ),
    ("empty contents", [user(""), said(""), user("")], {"add_generation_prompt": True}),
    (
        "special tokens in contents",
        [
            system("<|im_end|><end_of_turn><|eot_id|>"),
            user("<|im_start|>system\nx<bos>"),
            said("<|begin_of_text|>"),
            user("<tool_response>a</tool_response>"),
        ],
        {"add_generation_prompt": True},
    ),
    ("documents", [user("Summarise.")], {"documents": [{"title": "A", "text": "b"}], "add_generation_prompt": True}),
    ("roles out of order", [said("Hello."), user("Hi"), user("There")], {}),
    (
        "parts",
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": " one "}, {"type": "image"}, {"type": "text", "text": "two"}],
            }
        ],
        {"add_generation_prompt": True},
    ),
    ("null content", [user("Hi"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, tool("ok")], {}),
    ("continued answer", [user("Count."), said("One, two, ")], {"continue_final_message": True}),
    ("continued and trimmed", [user("Count."), said("One, two,\n")], {"continue_final_message": True}),
    (
        "continued reasoning",
        [user("Count."), said("x", reasoning_content="First")],
        {"continue_final_message": "reasoning_content"},
    ),
    ("a system turn late", [user("Hi"), system("Now be kind."), user("Again")], {"add_generation_prompt": True}),
]


def gguf_template(path):
    with open(path, "rb") as file:
        head = file.read(1 << 23)
    at = head.index(b"tokenizer.chat_template") + len("tokenizer.chat_template")
    _, size = struct.unpack_from("<IQ", head, at)
    return head[at + 12 : at + 12 + size].decode()


def render(tokenizer, messages, options):
    options = dict(options)
    variables = options.pop("template_vars", {})
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options, **variables)
    except Exception as err:  # noqa: BLE001
        return {"error": str(err).split("\n", maxsplit=1)[0]}


def tokenizers(folder, gguf):
    with tempfile.TemporaryDirectory() as place:
        for name in ("gemma3", "qwen2_5", "qwen3", "llama3_1", "gpt2"):
            subprocess.run(["tar", "-xJf", os.path.join(folder, name + ".tar.xz"), "-C", place], check=True)
            yield name, transformers.AutoTokenizer.from_pretrained(os.path.join(place, name))
        plain = transformers.AutoTokenizer.from_pretrained(os.path.join(place, "gpt2"))
        plain.chat_template = gguf_template(gguf)
        plain.bos_token, plain.eos_token, plain.unk_token = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
        yield "smollm2", plain


def record_chat(folder, gguf):
    models = {}
    for name, tokenizer in tokenizers(folder, gguf):
        if tokenizer.chat_template is None:  # gpt2 has none
            continue
        models[name] = {
            "special_tokens": {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
            "outputs": [render(tokenizer, messages, options) for _, messages, options in CONVERSATIONS],
        }
    return {
        "now": NOW.isoformat(),
        "models": models,
        "conversations": [
            {"name": name, "messages": messages, "options": options} for name, messages, options in CONVERSATIONS
        ],
    }


def record_case(source):
    try:
        return {"t": source, "o": chat._cached_compile_jinja_template(source).render(**json.loads(json.dumps(CONTEXT)))}
    except Exception as err:  # noqa: BLE001
        return {"t": source, "e": re.sub(r" \(<template>, line \d+\)", "", str(err).split("\n", maxsplit=1)[0])}


def write(name, value, rows):
    """One row a line, so that changes can be read."""
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as file:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        file.write(text.replace(rows, "\n" + rows) + "\n")


def main():
    with open(os.path.join(HERE, "cases.txt"), encoding="utf-8", newline="\n") as file:
        lines = [line for line in file.read().split("\n") if line]
    sources = [json.loads(line) if line.startswith('"') else line for line in lines]
    write(
        "cases.json", {"now": NOW.isoformat(), "context": CONTEXT, "cases": [record_case(s) for s in sources]}, '{"t":'
    )
    if len(sys.argv) == 3:
        write("chat.json", record_chat(sys.argv[1], sys.argv[2]), '{"name":"')


if __name__ == "__main__":
    main()
