#!/usr/bin/env python3
"""Makes tests/goldens/real/: what the reference computes with two published models (see README.md here).

    python3 tests/goldens/make_real.py WEIGHTS [smollm2|gemma3]   # needs torch, transformers, tokenizers, gguf, jinja2

WEIGHTS holds smollm2.gguf and gemma3.gguf, whose digests are checked. transformers reads the files itself and
dequantises them to float32; `check_weights` compares every tensor with the gguf package's own dequantisation, for
a norm without its one or a permuted q would still give fluent text.
"""

import hashlib
import pathlib
import sys

import gguf
import jinja2
import numpy
import tokenizers
import torch
import transformers

import reference

HERE = pathlib.Path(__file__).parent / "real"
GENERATED = 48
TOP = 20
PREDICTED = 2000  # tokens of the shorter perplexity
WINDOWS = [(512, 512), (2048, 2048), (512, 256)]  # context, stride

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village at the edge of a great forest, there lived",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++) {\n",
    "Die Hauptstadt von Österreich ist Wien, und die Hauptstadt der Schweiz ist",
    "Il était une fois une petite fille qui",
    "日本の首都は",
    "Shopping list:\n- milk\n- eggs\n- bread\n-",
    "1, 2, 4, 8, 16, 32,",
    "Q: What is the boiling point of water at sea level?\nA:",
    "Photosynthesis is the process by which plants turn light into chemical energy. It takes place in the "
    "chloroplasts, where pigments absorb the light and",
    "{\"name\": \"Ada\", \"born\": 1815, \"languages\": [\"English\", \"French\"],",
    "A",
]
CHATS = [
    [{"role": "user", "content": "What is the capital of Italy?"}],
    [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "Why is the sky blue?"},
    ],
    [
        {"role": "user", "content": "Name three colours."},
        {"role": "assistant", "content": "Red, green and blue."},
        {"role": "user", "content": "Now name three animals, as a numbered list."},
    ],
    [{"role": "user", "content": "Write a haiku about the sea."}],
]

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MODELS = {
    "smollm2": {
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "names": {**NAMES, "ffn_norm": "post_attention_layernorm"},
        "chats": CHATS,
    },
    "gemma3": {
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "names": {
            **NAMES,
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        "chats": [],
    },
}


def halves(rows, heads):
    """Rows of q or k from the order of interleaved rotary pairs, as GGUF keeps Llama's, to that of two halves."""
    n, width = rows.shape
    return rows.reshape(heads, n // heads // 2, 2, width).swapaxes(1, 2).reshape(n, width)


def check_weights(model, reader, names):
    """Every tensor of the file, dequantised by the gguf package, is what transformers loaded."""
    config, state, seen = model.config, model.state_dict(), set()
    for tensor in reader.tensors:
        *layer, kind, _ = tensor.name.split(".")
        name = f"model.layers.{layer[1]}." + names[kind] if layer else names[kind]
        value = gguf.dequantize(tensor.data, tensor.tensor_type)
        if config.model_type == "llama" and kind in ("attn_q", "attn_k"):
            value = halves(value, config.num_attention_heads if kind == "attn_q" else config.num_key_value_heads)
        if config.model_type == "gemma3_text" and "norm" in kind:
            value = value - numpy.float32(1)
        assert numpy.array_equal(value, state[name + ".weight"].numpy()), tensor.name
        seen.add(name + ".weight")
    assert set(state) - seen == {"lm_head.weight"}, set(state) - seen
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()


def check_gemma(config):
    """What the file does not say, transformers must have taken from the family."""
    assert [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"] == [5, 11, 17]
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 10000.0
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert config.sliding_window == 512 and config.query_pre_attn_scalar == 256


def smollm_encoder(field):
    """transformers' conversion of this file forgets that `pre = smollm` splits digits singly before all else."""
    pieces, kinds = field("tokens"), field("token_type")
    merges = [tuple(m.split(" ")) for m in field("merges")]
    t = tokenizers.Tokenizer(tokenizers.models.BPE({p: i for i, p in enumerate(pieces)}, merges))
    t.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    t.decoder = tokenizers.decoders.ByteLevel()
    t.add_special_tokens([p for p, kind in zip(pieces, kinds) if kind != 1])
    return t


def encoder(weights, name, reader):
    if name == "smollm2":
        return smollm_encoder(lambda key: reader.fields["tokenizer.ggml." + key].contents())
    return transformers.AutoTokenizer.from_pretrained(weights, gguf_file=name + ".gguf").backend_tokenizer


def rendered(reader, messages):
    """Through the file's own chat template, with the settings of transformers."""
    source = reader.fields["tokenizer.chat_template"].contents()
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    return template.render(messages=messages, add_generation_prompt=True)


def prompt_golden(model, encode, decode, text):
    ids = encode(text)
    made, margins = reference.greedy(model, ids, GENERATED)
    last = reference.logits(model, ids)[-1].topk(TOP)
    ends = model.config.eos_token_id
    return {
        "prompt": text,
        "prompt_ids": ids,
        "ids": made,
        "text": decode(made),
        "first_end": made.index(ends) if ends in made else None,
        "margins": [round(m, 5) for m in margins],
        "top": {"ids": last.indices.tolist(), "logits": [round(x, 5) for x in last.values.tolist()]},
    }


def nlls(model, ids, context, stride):
    """Negative log likelihood of each predicted token, in the order of the text (README.md defines the windows)."""
    found, done = [], 1  # the first id is predicted by nothing
    for start in range(0, len(ids), stride):
        window = ids[start : start + context]
        fresh = start + len(window) - done
        if fresh <= 0 or len(window) < 2:
            break
        if stride == context:  # the first id of a cold window has no context
            fresh = len(window) - 1
        scores = reference.logits(model, window)[-fresh - 1 : -1].double().log_softmax(-1)
        wanted = torch.tensor(window[-fresh:])
        found += (-scores.gather(1, wanted[:, None])[:, 0]).tolist()
        done = start + len(window)
    return found


def perplexity(model, ids):
    rows = []
    for context, stride in WINDOWS:
        each = nlls(model, ids, context, stride)
        rows.append(
            {
                "context": context,
                "stride": stride,
                "first": {"tokens": PREDICTED, "nll": round(sum(each[:PREDICTED]) / PREDICTED, 7)},
                "whole": {"tokens": len(each), "nll": round(sum(each) / len(each), 7)},
            }
        )
        assert len(each) >= PREDICTED
    return rows


def make(weights, name):
    file = weights / (name + ".gguf")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == MODELS[name]["sha256"], f"{file}: sha256 {digest}"
    reader = gguf.GGUFReader(file)
    model = reference.load(weights, gguf_file=file.name)
    check_weights(model, reader, MODELS[name]["names"])
    if name == "gemma3":
        check_gemma(model.config)
    t = encoder(weights, name, reader)

    def encode(text):
        return t.encode(text).ids

    def decode(ids):
        return t.decode(ids, skip_special_tokens=False)

    prompts = [prompt_golden(model, encode, decode, text) for text in PROMPTS]
    for messages in MODELS[name]["chats"]:
        prompts.append({"messages": messages, **prompt_golden(model, encode, decode, rendered(reader, messages))})
    ids = encode((HERE / "text.txt").read_text(encoding="utf-8"))
    scores = perplexity(model, ids)
    noise = reference.floor(model, [p["prompt_ids"] for p in prompts])
    reference.write_json(
        HERE / f"{name}.json",
        {
            "made_with": {**reference.versions(), "tokenizers": tokenizers.__version__},
            "file": file.name,
            "sha256": digest,
            "noise_floor": float(f"{noise:.3g}"),
            "prompts": prompts,
            "text": {"file": "text.txt", "ids": ids, "perplexity": scores},
        },
    )
    print(f"{name}: floor {noise:.2e}, smallest margin {min(min(p['margins']) for p in prompts)}, {scores}")


if __name__ == "__main__":
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for each in sys.argv[2:] or MODELS:
        make(pathlib.Path(sys.argv[1]), each)
