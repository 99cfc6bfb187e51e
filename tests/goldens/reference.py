"""What the scripts that make goldens share: the reference models, run in float32 and in float64.

The reference is transformers with eager attention. Its modules convert to float32 inside norms, softmax and
rotary embeddings whatever the model's dtype; `float64` below turns those conversions into float64 too, so that
the distance between the two runs is the whole rounding noise of float32 and not a part of it.
"""
import contextlib
import json
import platform

import torch
import transformers


def versions():
    """What made a golden."""
    return {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
            "python": platform.python_version()}


@contextlib.contextmanager
def float64():
    """Inside, `torch.float32`, `torch.float` and `Tensor.float()` mean float64, and it is the default dtype."""
    kept = torch.float32, torch.float, torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = kept
        torch.set_default_dtype(kept[0])


def load(directory, **kwargs):
    """The model of a directory or GGUF file, float32, eager attention."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", **kwargs)
    return model.eval()


def widened(model):
    """The same model in float64, its rotary frequencies computed in float64. Call it only inside `float64()`."""
    twin = type(model)(model.config)
    twin.load_state_dict({name: x.double() for name, x in model.state_dict().items()})
    twin.tie_weights()
    assert next(twin.parameters()).dtype == torch.float64
    return twin.eval()


@torch.no_grad()
def logits(model, ids):
    """(T, V) logits of one prompt, computed whole, without a cache."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def floor(model, prompts):
    """Largest |float32 - float64| logit over all prompts, relative to the largest |logit| of that prompt."""
    narrow = [logits(model, ids) for ids in prompts]
    with float64():
        twin = widened(model)
        wide = [logits(twin, ids) for ids in prompts]
    assert all(x.dtype == torch.float64 for x in wide)
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(narrow, wide))


@torch.no_grad()
def greedy(model, ids, n):
    """n greedy tokens after `ids`, end tokens ignored, and at each step the gap between the two best logits."""
    made, margins, cache, step = [], [], None, list(ids)
    for _ in range(n):
        out = model(input_ids=torch.tensor([step]), past_key_values=cache, use_cache=True)
        best = out.logits[0, -1].topk(2)
        made.append(best.indices[0].item())
        margins.append((best.values[0] - best.values[1]).item())
        cache, step = out.past_key_values, made[-1:]
    return made, margins


def write_json(path, value):
    """Lists of numbers on one line each, keys in the order given."""
    def text(v, pad):
        if isinstance(v, dict) and v:
            inner = pad + "  "
            rows = (f"{inner}{json.dumps(k)}: {text(x, inner)}" for k, x in v.items())
            return "{\n" + ",\n".join(rows) + f"\n{pad}}}"
        if isinstance(v, list) and v and isinstance(v[0], dict):
            inner = pad + "  "
            return "[\n" + ",\n".join(inner + text(x, inner) for x in v) + f"\n{pad}]"
        return json.dumps(v, ensure_ascii=False)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text(value, "") + "\n")
