"""Full attention of PyTorch on one GPU, for the cases of `weft_flash_attention_benchmark --device cuda`.

    python3 torch_gpu_attention.py [--filter P-8k,S-8k] [--repeats 7] [--backends cudnn,flash]

bf16, random inputs, causal; one JSON object a row. Times are medians between CUDA events after two
calls of warm-up, in ms; FLOPs count visible pairs, as Weft's program does.
"""
import argparse
import json

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# name: batch, length, heads, key heads, head dim
CASES = {
    "124M-1k": (32, 1024, 12, 12, 64),
    "340M-8k": (4, 8192, 16, 16, 64),
    "340M-32k": (1, 32768, 16, 16, 64),
    "340M-64k": (1, 65536, 16, 16, 64),
    "P-8k": (1, 8192, 64, 4, 128),
    "P-32k": (1, 32768, 64, 4, 128),
    "P-64k": (1, 65536, 64, 4, 128),
    "S-8k": (1, 8192, 32, 2, 64),
    "S-32k": (1, 32768, 32, 2, 64),
    "S-64k": (1, 65536, 32, 2, 64),
}
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def median_ms(call, repeats):
    times = []
    for turn in range(repeats + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        if turn >= 2:
            times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def measure(name, backend, repeats):
    batch, length, heads, key_heads, dim = CASES[name]
    inputs = [
        torch.randn(batch, length, count, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for count in (heads, key_heads, key_heads)
    ]

    def attend():
        q, k, v = (x.transpose(1, 2) for x in inputs)
        with sdpa_kernel(BACKENDS[backend]):
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != key_heads)

    with torch.no_grad():
        forward = median_ms(attend, repeats)
    result = attend()
    gradient = torch.randn_like(result)
    backward = median_ms(lambda: torch.autograd.grad(result, inputs, gradient, retain_graph=True), repeats)
    flops = 4 * batch * heads * dim * length * (length + 1) / 2
    return {
        "forward_ms": round(forward, 4),
        "forward_tflops": round(flops / forward * 1e-9, 1),
        "backward_ms": round(backward, 4),
        "backward_tflops": round(2.5 * flops / backward * 1e-9, 1),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--filter", default=",".join(CASES))
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    versions = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    for name in options.filter.split(","):
        for backend in options.backends.split(","):
            row = {"case": name, "device": torch.cuda.get_device_name(), "backend": f"torch-{backend}"}
            try:
                row |= versions | measure(name, backend, options.repeats)
            except RuntimeError as error:
                row["error"] = str(error)[:200]
            print(json.dumps(row), flush=True)
            torch.cuda.empty_cache()


main()
