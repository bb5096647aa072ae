#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An SSD layer beside attention in a model of the same width, as the figure of the Mamba-2 paper has it: 32k tokens
in sequences of growing length; width 2048, for SSD (twice as wide inside) 64 heads of 64 with a state of 64. Needs a
GPU and PyTorch.

    bench/attention.py [--ssdc build/ssdc] [--lengths 512,1024,..]

Both are timed alike: replay of a CUDA graph, L2 flushed before each, medians. Attention is causal, bf16, by
torch's scaled_dot_product_attention with its cuDNN and FlashAttention back ends, heads of 64 and of 128.
"""
import argparse
import json
import os
import statistics
import subprocess

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

WIDTH, TOKENS, RUNS = 2048, 32768, 50
HERE = os.path.dirname(os.path.abspath(__file__))
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FlashAttention": SDPBackend.FLASH_ATTENTION}


def ssd_ms(ssdc, lengths):
    """Medians of `ssdc bench`, one a length."""
    shapes = ",".join(f"{TOKENS // t}x{t}x64p64n64" for t in lengths)
    spec = os.path.join(HERE, "..", "specs", "mamba2-core.yaml")
    out = subprocess.run([ssdc, "bench", spec, "--target", "cuda", "--json", "--shapes", shapes],
                         check=True, stdout=subprocess.PIPE, text=True).stdout
    runs = [json.loads(line) for line in out.splitlines() if line]
    return [r["ms"] for r in runs if "ms" in r]


def replayed_ms(call, flush):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    times = []
    for _ in range(RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.fill_(1)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def attention_ms(backend, head, t, flush):
    """Median, or None where the back end does not take the shape."""
    q, k, v = (torch.randn(TOKENS // t, WIDTH // head, t, head, device="cuda", dtype=torch.bfloat16) for _ in range(3))

    def call():
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    try:
        with sdpa_kernel(backend), torch.no_grad():
            return replayed_ms(call, flush)
    except RuntimeError as why:
        print(f"{backend.name}, heads of {head}, T={t}: {why}")
        return None


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ssdc", default=os.path.join(HERE, "..", "build", "ssdc"))
    options.add_argument("--lengths", default="512,1024,2048,4096,16384")
    o = options.parse_args()
    lengths = [int(t) for t in o.lengths.split(",")]
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    columns = [(f"{name} {head}", backend, head) for name, backend in BACKENDS.items() for head in (64, 128)]
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
    print(f"{'T':>6} {'ssdc':>8}", *(f"{name:>18}" for name, _, _ in columns), "  ms")
    for t, ssd in zip(lengths, ssd_ms(o.ssdc, lengths)):
        times = (attention_ms(backend, head, t, flush) for _, backend, head in columns)
        print(f"{t:6} {ssd:8.3f}", *(f"{'-' if ms is None else f'{ms:.3f}':>18}" for ms in times))


if __name__ == "__main__":
    main()
