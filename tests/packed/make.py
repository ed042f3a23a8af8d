"""Makes the fixtures beside it: a small Llama as AutoAWQ and as AutoGPTQ pack it, and what mlx-lm makes of it.

    pip install 'mlx[cpu]' mlx-lm blake3
    python make.py GOLDEN/llama_sharded

The weights are those of a tiny checkpoint: two of its layers, the head tied. Both folders hold the same codes, zeros and
scales. mlx-lm reads the words of either method as AWQ's and refuses a `g_idx`, so the folder of AWQ alone is given to it;
of the other, this script takes the numbers out in the way of AutoGPTQ's `QuantLinear.forward`, and compares.

`expected.json`, `expected.safetensors`: ids and logits as in the other fixtures, computed in float32 from the f16 parameters
that mlx-lm made, on the processor. `tensors`: BLAKE3 of the bytes of each tensor that `mlx_lm.convert` writes of the folder.
"""

import json, shutil, sys, tempfile
from pathlib import Path

import blake3
import mlx.core as mx
import mlx_lm
import numpy as np
from mlx.utils import tree_map
from mlx_lm.convert import convert
from mlx_lm.utils import load_model

N_LAYERS, GROUP, N_GREEDY, LEAST_MARGIN = 2, 32, 24, 0.15
# AutoAWQ puts these columns of eight into a word's nibbles, lowest first; AutoGPTQ keeps their order.
AWQ_ORDER, GPTQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7], list(range(8))


def quantize(w):
    """Codes [out, in], zeros and scales [out, groups] of a matrix [out, in]; zeros from 1 to 15."""
    groups = w.astype(np.float32).reshape(len(w), -1, GROUP)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.round(-low / scales), 1, 15).astype(np.uint32)
    codes = np.clip(np.round(groups / scales[..., None]) + zeros[..., None], 0, 15).astype(np.uint32)
    return codes.reshape(w.shape), zeros, scales


def words(numbers, order):
    """Eight numbers of the last axis to a word."""
    eights = numbers.reshape(*numbers.shape[:-1], -1, 8)[..., order]
    return np.bitwise_or.reduce(eights << (4 * np.arange(8, dtype=np.uint32)), -1).astype(np.uint32).view(np.int32)


def awq(codes, zeros, scales):
    return {"qweight": words(codes.T, AWQ_ORDER), "qzeros": words(zeros.T, AWQ_ORDER), "scales": scales.T}


def gptq(codes, zeros, scales):
    return {
        "qweight": words(codes, GPTQ_ORDER).T,
        "qzeros": words(zeros.T - 1, GPTQ_ORDER),
        "scales": scales.T,
        "g_idx": (np.arange(codes.shape[1]) // GROUP).astype(np.int32),
    }


def gptq_numbers(tensors):
    """The matrix [in, out] in float32, each column of words by its group."""
    shifts = 4 * np.arange(8)
    weight = (tensors["qweight"][:, None, :] >> shifts[:, None] & 15).reshape(-1, tensors["qweight"].shape[1])
    zeros = ((tensors["qzeros"][:, :, None] >> shifts & 15) + 1).reshape(len(tensors["scales"]), -1)
    of_column = tensors["g_idx"]
    return tensors["scales"].astype(np.float32)[of_column] * (weight - zeros[of_column])


def save(folder, config, method, tensors):
    folder.mkdir(exist_ok=True)
    config = config | {"quantization_config": method}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    arrays = {name: mx.array(np.ascontiguousarray(tensor)) for name, tensor in sorted(tensors.items())}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "pt"})


def references(folder, rng):
    """Prompts of three lengths, with every choice of a token by a margin."""
    model, _ = load_model(folder)
    model.update(tree_map(lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a, model.parameters()))
    prompts, arrays = [], {}
    for ix, length in enumerate([1, 7, 75]):
        while True:
            ids = rng.integers(4, model.args.vocab_size, length).tolist()
            greedy, margins = [], []
            for _ in range(N_GREEDY):
                logits = np.array(model(mx.array([ids + greedy]))[0])
                top = np.sort(logits[-1])
                margins.append(float(top[-1] - top[-2]))
                greedy.append(int(logits[-1].argmax()))
            if min(margins) > LEAST_MARGIN:
                break
        first = max(0, length - 8)
        arrays[f"prompt{ix}.logits"] = mx.array(logits[first:length])
        arrays[f"prompt{ix}.last_greedy_logits"] = mx.array(logits[-1])
        margins = [round(margin, 5) for margin in margins]
        prompts.append({"ids": ids, "logits_first_position": first, "greedy_ids": greedy, "greedy_margin": margins})
    return prompts, arrays


def main():
    golden, here = Path(sys.argv[1]), Path(__file__).parent
    source = {}
    for file in sorted(golden.glob("model*.safetensors")):
        source |= {name: np.array(tensor.astype(mx.float32)) for name, tensor in mx.load(str(file)).items()}
    config = json.loads((golden / "config.json").read_text())
    config |= {"num_hidden_layers": N_LAYERS, "tie_word_embeddings": True, "torch_dtype": "float16"}
    forms = {"awq": {}, "gptq": {}}
    for name, tensor in source.items():
        is_left_out = name.startswith(f"model.layers.{N_LAYERS}.") or name == "lm_head.weight"
        if is_left_out:
            continue
        if not name.endswith("_proj.weight"):
            forms["awq"][name] = forms["gptq"][name] = tensor.astype(np.float16)
            continue
        path, (codes, zeros, scales) = name.removesuffix("weight"), quantize(tensor)
        for form, pack in [("awq", awq), ("gptq", gptq)]:
            packed = pack(codes, zeros, scales)
            forms[form] |= {path + ending: tensor for ending, tensor in packed.items()}
        in_groups = (codes.reshape(*zeros.shape, GROUP).astype(np.float32) - zeros[..., None]) * scales[..., None].astype(np.float32)
        assert (gptq_numbers(packed) == in_groups.reshape(codes.shape).T).all(), path
    common = {"bits": 4, "group_size": GROUP}
    save(here / "awq", config, common | {"quant_method": "awq", "version": "gemm", "zero_point": True}, forms["awq"])
    method = {"quant_method": "gptq", "checkpoint_format": "gptq", "desc_act": False, "sym": False}
    save(here / "gptq", config, common | method, forms["gptq"])

    prompts, arrays = references(here / "awq", np.random.default_rng(1))
    mx.save_safetensors(str(here / "expected.safetensors"), arrays)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "awq"
        shutil.copytree(here / "awq", whole)
        # mlx-lm wants a tokenizer to copy.
        shutil.copytree(golden.parent / "tokenizer", whole, dirs_exist_ok=True)
        convert(str(whole), str(Path(folder) / "mlx"))
        made = mx.load(str(Path(folder) / "mlx" / "model.safetensors"))
        quantization = json.loads((Path(folder) / "mlx" / "config.json").read_text())["quantization"]
    as_bytes = lambda tensor: np.array(tensor.view(mx.uint8)).tobytes()
    hashes = {name: blake3.blake3(as_bytes(tensor)).hexdigest() for name, tensor in sorted(made.items())}
    expected = {
        "made": f"mlx {mx.__version__}, mlx-lm {mlx_lm.__version__}",
        "prompts": prompts,
        "quantization": quantization,
        "tensors": hashes,
    }
    prompts = [json.dumps(prompt) for prompt in expected.pop("prompts")]
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in expected.items()]
    lines.append('"prompts": [\n' + ",\n".join(prompts) + "\n]")
    (here / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
