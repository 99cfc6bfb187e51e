#!/usr/bin/env python3
"""Makes tests/goldens/tiny/: tiny random models and what the reference computes for them (see README.md here).

    python3 tests/goldens/make_tiny.py [NAME ...]     # needs torch, transformers, safetensors

The same seed gives the same files. Every model proves that it can find a mistake: each config value in its
`moves` and each tensor of its file, when changed, must move the reference's logits by far more than rounding does.
"""
import copy
import json
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file

import reference

HERE = pathlib.Path(__file__).parent / "tiny"
LENGTHS = [1, 5, 29, 4, 17, 9]        # the last three are the unequal rows of a batch
BATCH = [3, 4, 5]
GENERATED = 16
MIN_MOVE = 1e-4                       # relative to the largest logit; rounding is about 1e-6
MIN_MARGIN = 1e-3                     # between the two best logits of a generated token, same unit

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}


def spec(config, dtype="bfloat16", shards=1, old=None, moves=()):
    """config: transformers' class; old: a function that rewrites config.json in the spelling before version 5;
    moves: (key, other value) pairs, where key may be a path such as rope_parameters.rope_theta."""
    return {"config": config, "dtype": dtype, "shards": shards, "old": old, "moves": moves}


def common(**kw):
    base = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, vocab_size=211, max_position_embeddings=256, rms_norm_eps=1e-5,
                bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    base.update(kw)
    return base


def old_flat(config):
    """The spelling before transformers 5 of a config with one set of rope parameters."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.3"
    return config


def old_linear(config):
    """The oldest spelling of linear scaling, `type`, with head_dim null as some exporters write it."""
    config = old_flat(config)
    config["rope_scaling"] = {"type": "linear", "factor": config["rope_scaling"]["factor"]}
    config["head_dim"] = None
    return config


def old_qwen2(config):
    config = old_flat(config)
    del config["layer_types"]
    config["sliding_window"] = config["sliding_window"] or 7      # published configs keep it when it is unused
    return config


def old_gemma3(config):
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    config["rope_scaling"] = {k: v for k, v in rope["full_attention"].items() if k != "rope_theta"}
    config["sliding_window_pattern"] = config.pop("layer_types").index("full_attention") + 1
    config["cache_implementation"] = "hybrid"
    for key in ("_sliding_window_pattern", "use_bidirectional_attention", "tie_word_embeddings"):
        del config[key]                                           # then unknown, or left to the family's default
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.3"
    return config


def gemma_rope(theta, local, factor=None):
    full = {"rope_type": "default", "rope_theta": theta}
    if factor:
        full = {"rope_type": "linear", "factor": factor, "rope_theta": theta}
    return {"sliding_attention": {"rope_type": "default", "rope_theta": local}, "full_attention": full}


def layers(pattern):
    """S for a sliding layer, F for a full one."""
    return [{"S": "sliding_attention", "F": "full_attention"}[c] for c in pattern]


def gemma3(**kw):
    base = common(head_dim=12, num_hidden_layers=4, layer_types=layers("SSFS"), sliding_window=7,
                  query_pre_attn_scalar=10, rms_norm_eps=1e-6, tie_word_embeddings=True, intermediate_size=32,
                  rope_parameters=gemma_rope(5000.0, 100.0))
    base.update(kw)
    return transformers.Gemma3TextConfig(**base)


GEMMA_MOVES = (("sliding_window", 8), ("sliding_window", 6), ("query_pre_attn_scalar", 12), ("rms_norm_eps", 1e-2),
               ("hidden_activation", "silu"), ("rope_parameters.full_attention.rope_theta", 100.0),
               ("rope_parameters.sliding_attention.rope_theta", 5000.0))
ROPE = "rope_parameters."

MODELS = {
    # head_dim is not hidden_size / heads; heads in groups of two; untied; float32 file.
    "llama": spec(transformers.LlamaConfig(**common(
        head_dim=10, hidden_size=24, vocab_size=131,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0})),
        dtype="float32", moves=((ROPE + "rope_theta", 10000.0), ("rms_norm_eps", 1e-2))),
    # One key/value head, biases everywhere, tied, llama3 scaling whose three ranges all occur.
    "llama_mqa_bias": spec(transformers.LlamaConfig(**common(
        head_dim=14, num_key_value_heads=1, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
        rope_parameters={**LLAMA3, "rope_theta": 10000.0})),
        moves=((ROPE + "factor", 4.0), (ROPE + "low_freq_factor", 2.0), (ROPE + "high_freq_factor", 6.0),
               (ROPE + "original_max_position_embeddings", 32), (ROPE + "rope_theta", 1000.0))),
    # Old spelling of llama3 scaling; as many key/value heads as heads; float16 file.
    "llama_old_llama3": spec(transformers.LlamaConfig(**common(
        head_dim=10, num_attention_heads=2, num_key_value_heads=2, vocab_size=173, hidden_act="gelu",
        rope_parameters={**LLAMA3, "factor": 16.0, "rope_theta": 2000.0})),
        dtype="float16", old=old_flat, moves=(("rope_theta", 1000.0), ("rope_scaling.factor", 4.0),
                                              ("rope_scaling", None), ("hidden_act", "gelu_pytorch_tanh"))),
    # Oldest spelling of linear scaling, head_dim null; three shards with an index.
    "llama_linear_shards": spec(transformers.LlamaConfig(**common(
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0})),
        dtype="float16", shards=3, old=old_linear, moves=(("rope_scaling.factor", 2.0), ("rope_scaling", None))),
    # Sliding layers around a full one, linear scaling on the full layer alone, both thetas; spelling of version 5.
    "gemma3": spec(gemma3(rope_parameters=gemma_rope(5000.0, 100.0, factor=8.0)),
                   moves=GEMMA_MOVES + ((ROPE + "full_attention.factor", 4.0), ("layer_types", layers("SFSS")))),
    # The same in the spelling before version 5, with a pattern and the soft cap of the logits (attention has none:
    # the reference ignores Gemma 3's attn_logit_softcapping, and so does the family); three query heads to one of keys.
    "gemma3_old_softcap": spec(gemma3(
        hidden_size=30, head_dim=10, num_attention_heads=3, num_key_value_heads=1, num_hidden_layers=3,
        query_pre_attn_scalar=16, layer_types=layers("SFS"), final_logit_softcapping=4.0,
        rope_parameters=gemma_rope(5000.0, 100.0, factor=8.0)),
        old=old_gemma3, moves=(("sliding_window", 8), ("query_pre_attn_scalar", 10), ("rope_local_base_freq", 5000.0),
                               ("rope_theta", 100.0), ("rope_scaling", None), ("sliding_window_pattern", 3),
                               ("final_logit_softcapping", None))),
    # Untied head, attention biases, a window of 4 below most prompts; float16 in two shards.
    "gemma3_untied_shards": spec(gemma3(
        head_dim=8, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=3, layer_types=layers("FSS"),
        sliding_window=4, query_pre_attn_scalar=7, tie_word_embeddings=False, attention_bias=True, vocab_size=157),
        dtype="float16", shards=2,
        moves=(("sliding_window", 5), ("query_pre_attn_scalar", 8), ("layer_types", layers("SSF")))),
    # Norms on q and k; head_dim is not hidden_size / heads; tied.
    "qwen3": spec(transformers.Qwen3Config(**common(
        head_dim=12, tie_word_embeddings=True, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 3000.0})),
        moves=((ROPE + "rope_theta", 10000.0), ("rms_norm_eps", 1e-2))),
    # Old spelling, biases, one key/value head, sliding layers from max_window_layers on.
    "qwen3_old_window": spec(transformers.Qwen3Config(**common(
        head_dim=10, num_key_value_heads=1, num_hidden_layers=3, intermediate_size=32, attention_bias=True,
        vocab_size=157, use_sliding_window=True, sliding_window=7, max_window_layers=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0})),
        old=old_qwen2, moves=(("sliding_window", 8), ("max_window_layers", 2), ("use_sliding_window", False))),
    # Biases on q, k and v that no key announces; a window that use_sliding_window turns off; tied.
    "qwen2_old": spec(transformers.Qwen2Config(**common(
        tie_word_embeddings=True, use_sliding_window=False, sliding_window=7, max_window_layers=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0})),
        old=old_qwen2, moves=(("use_sliding_window", True), ("rope_theta", 10000.0))),
    # Spelling of version 5, layer_types of both kinds, untied, float32 shards.
    "qwen2_window_shards": spec(transformers.Qwen2Config(**common(
        hidden_size=28, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1, vocab_size=101,
        num_hidden_layers=3, use_sliding_window=True, sliding_window=5, max_window_layers=0,
        layer_types=layers("SFS"), rope_parameters={"rope_type": "default", "rope_theta": 800.0})),
        dtype="float32", shards=2, moves=(("sliding_window", 6), ("layer_types", layers("SSS")))),
}


def random_weights(model, dtype, generator):
    """Tensors by name, rounded to dtype: products keep the scale of their input, attention is neither flat nor a
    single peak, norm weights differ from one (or, where the model adds the one, from zero), biases matter."""
    gemma = model.config.model_type.startswith("gemma")
    tied = model.config.tie_word_embeddings
    tensors = {}
    for name, x in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        noise = torch.randn(x.shape, generator=generator)
        if name == "model.norm.weight" and tied:    # of either sign, lest a tied model echo its last token
            value = noise - (1.0 if gemma else 0.0)
        elif name.endswith("norm.weight"):
            value = 0.3 * noise + (0.0 if gemma else 1.0)
        elif name.endswith(".bias"):
            value = 0.5 * noise
        elif "embed_tokens" in name and gemma:      # scaled by sqrt(hidden_size) on the way in
            value = noise * (2.0 / x.shape[1]) ** 0.5
        elif "embed_tokens" in name and not tied:
            value = noise
        elif "embed_tokens" in name or name == "lm_head.weight":
            value = noise * (6.0 / x.shape[1]) ** 0.5
        else:
            value = noise * (2.0 / x.shape[1]) ** 0.5
        tensors[name] = value.to(getattr(torch, dtype)).contiguous()
    return tensors


def write_weights(directory, tensors, shards):
    """model.safetensors, or shards of about equal numbers of tensors and their index."""
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = list(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = names[i * len(names) // shards:(i + 1) * len(names) // shards]
        save_file({n: tensors[n] for n in part}, directory / file, metadata={"format": "pt"})
        weight_map.update((n, file) for n in part)
    total = sum(x.numel() * x.element_size() for x in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_config(directory, name, model, dtype, old):
    config = model.config.to_dict()
    config["dtype"], config["architectures"] = dtype, [type(model).__name__]
    for key in ("_name_or_path", "chunk_size_feed_forward", "output_attentions", "output_hidden_states", "return_dict",
                "id2label", "label2id", "is_encoder_decoder", "problem_type"):
        config.pop(key, None)
    if old:
        config = old(copy.deepcopy(config))
        assert "rope_parameters" not in config and "dtype" not in config, name
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def distance(a, b):
    return ((a - b).abs().max() / a.abs().max()).item()


def changed(directory, key, value, ids):
    """Logits of the model in `directory` with one value of its config.json replaced."""
    with tempfile.TemporaryDirectory() as copy_of:
        twin = pathlib.Path(copy_of) / "model"
        shutil.copytree(directory, twin)
        config = json.loads((twin / "config.json").read_text())
        *path, last = key.split(".")
        place = config
        for step in path:
            place = place[step]
        assert last in place, f"{key}: not in config.json"
        place[last] = value
        if key in ("use_sliding_window", "max_window_layers"):
            config.pop("layer_types", None)
        (twin / "config.json").write_text(json.dumps(config))
        return reference.logits(reference.load(twin), ids)


def moves(name, directory, model, ids, wanted):
    """How far each change moves the logits; raises when one hardly does, for then no test could see the mistake."""
    base, found, generator = reference.logits(model, ids), {}, torch.Generator().manual_seed(1)
    for key, value in wanted:
        shown = "".join(x[0] for x in value).upper() if isinstance(value, list) else json.dumps(value)
        found[f"{key} = {shown}"] = distance(base, changed(directory, key, value, ids))
    for tensor, x in model.named_parameters():
        kept = x.data.clone()
        x.data = kept * (1 + 0.1 * torch.randn(kept.shape, generator=generator))
        moved = distance(base, reference.logits(model, ids))
        x.data = kept
        assert moved > MIN_MOVE, f"{name}: {tensor}: 10% of noise moves the logits by {moved:.1e} only"
    for change, moved in found.items():
        assert moved > MIN_MOVE, f"{name}: {change} moves the logits by {moved:.1e} only"
    return {change: float(f"{moved:.2g}") for change, moved in found.items()}


def prompt_with_margins(model, generator, peak):
    """A prompt of 6 ids whose greedy continuation is never a near tie and meets no special id."""
    for _ in range(200):
        ids = torch.randint(3, model.config.vocab_size, (6,), generator=generator).tolist()
        made, margins = reference.greedy(model, ids, GENERATED)
        if min(margins) > MIN_MARGIN * peak and min(made) > 2 and len(set(made)) > GENERATED // 2:
            return ids, made, margins
    raise AssertionError("no prompt without near ties")


def make(name, seed):
    s = MODELS[name]
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    blank = transformers.AutoModelForCausalLM.from_config(s["config"])
    write_weights(directory, random_weights(blank, s["dtype"], generator), s["shards"])
    write_config(directory, name, blank, s["dtype"], s["old"])

    model = reference.load(directory)
    vocab = model.config.vocab_size
    prompts = [torch.randint(0, vocab, (n,), generator=generator).tolist() for n in LENGTHS]
    if s["old"]:      # the two spellings mean one model
        modern = type(model)._from_config(s["config"], dtype=torch.float32, attn_implementation="eager").eval()
        modern.load_state_dict(model.state_dict())
        assert torch.equal(reference.logits(model, prompts[2]), reference.logits(modern, prompts[2])), name

    tensors, peak = {}, 0.0
    for i, ids in enumerate(prompts):
        tensors[f"ids.{i}"] = torch.tensor(ids, dtype=torch.int32)
        tensors[f"logits.{i}"] = reference.logits(model, ids).contiguous()
        peak = max(peak, tensors[f"logits.{i}"].abs().max().item())
    prompt, made, margins = prompt_with_margins(model, generator, peak)
    save_file(tensors, directory / "expected.safetensors")
    reference.write_json(directory / "expected.json", {
        "made_with": reference.versions(), "seed": seed, "prompts": len(prompts), "batch": BATCH,
        "noise_floor": float(f"{reference.floor(model, prompts):.3g}"), "max_logit": round(peak, 4),
        "generate": {"prompt": prompt, "ids": made, "margins": [round(m, 5) for m in margins]},
        "moves": moves(name, directory, model, prompts[2], s["moves"])})
    size = sum(f.stat().st_size for f in directory.iterdir())
    assert size < 150_000, f"{name}: {size} bytes"
    print(f"{name}: {size} bytes, {(directory / 'expected.json').read_text()}", file=sys.stderr)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for number, each in enumerate(MODELS):
        if len(sys.argv) == 1 or each in sys.argv[1:]:
            make(each, 1000 + number)
