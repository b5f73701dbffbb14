"""Whole training steps of PyTorch on one GPU, the yardstick of `weft bench step --device cuda`.

    python3 torch_gpu_step.py [--cases 124m,340m-8k] [--steps 10]

A Llama-shaped decoder with f32 parameters under torch.compile and bf16 autocast, attention through
scaled_dot_product_attention, clipping at norm 1 and fused AdamW; random tokens. One JSON object a
row: the median of CUDA-event times after five steps of warm-up, and the most memory that PyTorch's
allocator handed out.
"""
import argparse
import json

import torch
import torch.nn.functional as F
from torch import nn

# name: vocabulary, width, layers, heads, hidden width of the MLP, length, batch
CASES = {
    "124m": (50304, 768, 12, 12, 2048, 1024, 32),
    "340m-8k": (32000, 1024, 24, 16, 2816, 8192, 4),
}


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)
        self.gate, self.up, self.down = linear(width, hidden), linear(width, hidden), linear(hidden, width)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)

        def rotate(t):
            a, b = t.float().chunk(2, -1)
            return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(t.dtype)

        mixed = F.scaled_dot_product_attention(rotate(heads[0]), rotate(heads[1]), heads[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, vocabulary, width, layers, heads, hidden, length):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), linear(width, vocabulary)
        half = width // heads // 2
        angle = torch.outer(torch.arange(length).float(), 1e4 ** (-torch.arange(half).float() / half))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens, targets):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).float().flatten(0, 1), targets.flatten())


def measure(name, steps):
    vocabulary, width, layers, heads, hidden, length, batch = CASES[name]
    model = Decoder(vocabulary, width, layers, heads, hidden, length).to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, fused=True)
    compiled = torch.compile(model)
    tokens, targets = (torch.randint(0, vocabulary, (batch, length), device="cuda") for _ in range(2))

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = []
    for turn in range(5 + steps):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        step()
        end.record()
        end.synchronize()
        if turn >= 5:
            times.append(begin.elapsed_time(end))
    milliseconds = sorted(times)[len(times) // 2]
    return {
        "case": name,
        "program": "torch.compile",
        "tokens_per_s": batch * length / milliseconds * 1e3,
        "step_ms": milliseconds,
        "step_ms_min": min(times),
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "params": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "device": torch.cuda.get_device_name(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    for name in arguments.cases.split(","):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        print(json.dumps(measure(name, arguments.steps)), flush=True)


if __name__ == "__main__":
    main()
