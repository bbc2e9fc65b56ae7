"""Runs a model directory through Hugging Face transformers and records what it computes.

Float32 on a CPU with eager attention. The layout of the record is described in docs/cli.md under "Oracle files".
"""

import copy
import json
import os
import tempfile

import numpy
import torch
import transformers
from safetensors.torch import save_file

GREEDY_ROWS = 8
CANDIDATES = 24


def short(value):
    """A float with the digits that float32 has."""
    return float("%.7g" % float(value))


def save(tensors, path):
    """A safetensors file of float32."""
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, path)
    os.chmod(path, 0o644)


def load(directory, overrides=None, dtype=torch.float32):
    """A model from its directory; `overrides` replace keys of config.json."""
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    config.update(overrides or {})
    with tempfile.TemporaryDirectory() as scratch:
        with open(os.path.join(scratch, "config.json"), "w") as file:
            json.dump(config, file)
        weights = os.path.abspath(os.path.join(directory, "model.safetensors"))
        os.symlink(weights, os.path.join(scratch, "model.safetensors"))
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            scratch,
            dtype=dtype,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
    # Config changes may leave weights over, but none may be missing.
    wrong = {key: value for key, value in report.items() if value and (key != "unexpected_keys" or not overrides)}
    if wrong:
        raise ValueError(f"{directory}: {wrong}")
    return model.eval()


class Run:
    """What came of a prompt: logits of its positions, and a greedy continuation with its margins."""

    def __init__(self, logits, ids, margins, rows, gap):
        self.logits, self.ids, self.margins, self.rows, self.gap = logits, ids, margins, rows, gap

    def rank(self):
        """Varied and certain continuations make the better reference, and no token between two experts."""
        varied = len(set(self.ids)) >= len(self.ids) // 3
        clear = sum(self.gap > least for least in (0.001, 0.01, 0.03))
        return (clear, varied, min(self.margins, default=0.0))


class Gaps:
    """The least distance of the last chosen expert's router logit from the first one not chosen."""

    def __init__(self, model):
        self.least = float("inf")
        for module in model.modules():
            if type(module).__name__.endswith(("TopKRouter", "TopKGating")):
                module.register_forward_hook(self.note)

    def note(self, module, _inputs, outputs):
        logits = outputs[0].float().reshape(-1, outputs[0].shape[-1]).sort(-1, descending=True).values
        count = getattr(module, "top_k", None)
        if isinstance(outputs, tuple) and count and count < logits.shape[-1]:
            self.least = min(self.least, float((logits[:, count - 1] - logits[:, count]).min()))


@torch.no_grad()
def greedy(model, ids, steps, pieces=None):
    """Feeds a prompt, in pieces if lengths are given, and goes on greedily in the same cache."""
    # RoPE scaling that follows the length keeps state in the model.
    model = copy.deepcopy(model)
    gaps = Gaps(model)
    cache, logits, at = None, [], 0
    for length in pieces or [len(ids)]:
        out, cache = step(model, ids[at : at + length], cache)
        logits.append(out)
        at += length
    logits = torch.cat(logits)
    row, made, margins, rows = logits[-1], [], [], []
    for _ in range(steps):
        best = torch.topk(row, 2)
        made.append(int(best.indices[0]))
        margins.append(short(best.values[0] - best.values[1]))
        rows.append(row)
        out, cache = step(model, made[-1:], cache)
        row = out[-1]
    return Run(logits, made, margins, rows, gaps.least)


def step(model, ids, cache):
    """Logits of some tokens, and the cache or state after them."""
    if model.config.model_type == "recurrent_gemma":
        # The state is in the model and cannot be handed over: all of it again.
        ids, new = (cache or []) + ids, len(ids)
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0][-new:], ids
    state = "cache_params" if model.config.model_type in ("mamba", "mamba2") else "past_key_values"
    out = model(input_ids=torch.tensor([ids]), use_cache=True, **{state: cache})
    return out.logits[0], getattr(out, state)


class Recorder:
    """Collects the cases of one oracle file."""

    def __init__(self, model, vocab, seed):
        self.model, self.vocab, self.seed = model, vocab, seed
        self.tensors, self.record = {}, {"cases": []}

    def prompt(self, length, salt):
        state = numpy.random.RandomState((self.seed * 7919 + salt * 104729 + length) % 2**31)
        return [int(id) for id in state.randint(0, self.vocab, size=length)]

    def case(self, name, length, steps):
        """Of several prompts the one whose continuation is the least doubtful."""
        count = CANDIDATES if steps else 1
        runs = [(ids, greedy(self.model, ids, steps)) for ids in (self.prompt(length, n) for n in range(count))]
        ids, run = max(runs, key=lambda pair: pair[1].rank())
        entry = {"name": name, "prompt_ids": ids, "greedy_ids": run.ids, "greedy_margins": run.margins}
        if run.gap < 0.001:
            raise ValueError(f"a token of {name} is {run.gap} from another expert")
        self.record["cases"].append(entry)
        self.tensors[f"{name}.prompt_logits"] = run.logits
        # The long one's suffice; they are the larger part of a short one.
        if run.rows and name == "long":
            self.tensors[f"{name}.greedy_logits_first8"] = torch.stack(run.rows[:GREEDY_ROWS])
        return ids, run

    def chunked(self, case, ids, run):
        """The same prompt in two unequal pieces; the reference has to agree with itself."""
        split = [len(ids) - len(ids) // 3, len(ids) // 3]
        off = (greedy(self.model, ids, 0, split).logits - run.logits).abs().max()
        if off > 2e-4:
            raise ValueError(f"in pieces the logits are {off} off")
        self.record["chunked_prefill"] = {"prompt": case, "split": split, "max_abs_logit_diff_vs_one_shot": short(off)}

    def two_turns(self, ids, reply):
        second = max(
            (self.prompt(11, 500 + n) for n in range(CANDIDATES)),
            key=lambda new: greedy(self.model, ids + reply + new, 16).rank(),
        )
        run = greedy(self.model, ids + reply + second, 16)
        self.record["two_turns"] = {
            "prompt_ids": ids,
            "first_reply_ids": reply,
            "second_prompt_ids": second,
            "second_reply_ids": run.ids,
            "second_reply_margins": run.margins,
        }

    def batch(self, lengths=(5, 17, 29), steps=12):
        prompts, runs = [], []
        for length in lengths:
            tried = [self.prompt(length, 900 + n) for n in range(CANDIDATES)]
            tried = [(ids, greedy(self.model, ids, steps)) for ids in tried]
            ids, run = max(tried, key=lambda pair: pair[1].rank())
            prompts.append(ids)
            runs.append(run)
        margins = [min(run.margins) for run in runs]
        self.record["batch"] = {"prompts": prompts, "greedy_ids": [run.ids for run in runs], "min_margins": margins}
        self.tensors["batch.last_logits"] = torch.stack([run.logits[-1] for run in runs])

    def write(self, path, head):
        with open(path + ".json", "w") as file:
            json.dump({**head, **self.record}, file)
            file.write("\n")
        save(self.tensors, path + ".safetensors")


@torch.no_grad()
def difference(model, ids, expected):
    """Per position, the largest difference and the cosine of a model's logits from those of another."""
    got = copy.deepcopy(model)(input_ids=torch.tensor([ids])).logits[0].double()
    cosine = torch.nn.functional.cosine_similarity(got, expected.double(), dim=-1)
    return (got - expected.double()).abs().amax(-1), cosine
