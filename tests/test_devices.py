"""src/gemma3_mesh.py: a model whose params lie on several devices says what it says on one.

The devices are simulated on the CPU, which has to be asked for before JAX starts, so that each
test is a process of its own, or several.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHILD = '''
import collections, json, re, sys

settings = json.loads(sys.argv[1])
import jax
if settings["processes"] > 1:
    jax.distributed.initialize(settings["address"], settings["processes"], settings["process"])
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gemma3
from gemma3_files import Config, Layer
from gemma3_mesh import COLUMNS, ROWS, place

V, C, F, d, H, K = 304, 16, 24, 4, 16, settings["K"]
local = Layer(8, 1e4, 1)
config = Config((local, Layer(4096, 1e6, 8), local), d, K, 1e-6, 0.5, 4096, ())
shapes = {
    "input_layernorm": (C,), "post_attention_layernorm": (C,), "pre_feedforward_layernorm": (C,),
    "post_feedforward_layernorm": (C,), "self_attn.q_norm": (d,), "self_attn.k_norm": (d,),
    "self_attn.q_proj": (H * d, C), "self_attn.k_proj": (K * d, C), "self_attn.v_proj": (K * d, C),
    "self_attn.o_proj": (C, H * d), "mlp.gate_proj": (F, C), "mlp.up_proj": (F, C),
    "mlp.down_proj": (C, F),
}
rng = np.random.default_rng(0)
def random(shape):
    return rng.normal(size=shape, scale=0.5 if len(shape) > 1 else 1).astype(np.float32)
params = {"embed_tokens": random((V, C)), "norm": random((C,))}
params["layers"] = [{part: random(shape) for part, shape in shapes.items()} for _ in config.layers]
for p in params["layers"]:  # what is added outweighs the embedding: else a token repeats itself
    p["post_attention_layernorm"] += 3
    p["post_feedforward_layernorm"] += 3
if settings["int8"]:
    params = jax.tree.map(lambda w: gemma3.quantize(w) if w.ndim == 2 else w, params)
mesh = Mesh(jax.devices(), ("model",))
shared = place(config, params, mesh)
if settings["through_heads"]:
    for layer, p in zip(params["layers"], shared["layers"]):
        for part in ROWS[1:4] + COLUMNS[:1]:
            spec = PartitionSpec(*[None] * (part in COLUMNS), "model")
            p[part] = jax.device_put(layer[part], NamedSharding(mesh, spec))

def text(params):
    ids = settings["ids"]
    greedy = [i for i, in gemma3.generate(config, params, ids, 30)]
    return greedy + [i for i, in gemma3.generate(config, params, ids, 30, temperature=5, top_k=200)]

report = {"devices": mesh.size, "here": len(jax.local_devices()), "shared": text(shared)}
report["single"] = text(jax.tree.map(jnp.asarray, params))
report["parts"] = {
    part: [a.addressable_shards[0].data.shape for a in (w if isinstance(w, tuple) else (w,))]
    for part, w in (shared | shared["layers"][1]).items() if part != "layers"
}
if settings["processes"] == 1:
    by_heads = NamedSharding(mesh, PartitionSpec(None, None if K % mesh.size else "model"))
    cache = [[jax.device_put(jnp.zeros((1, K, 16, d)), by_heads)] * 2 for _ in config.layers]
    program = gemma3.step.lower(config, shared, np.array([[5]]), cache, 0, 0).compile().as_text()
    sends = r"(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\\("
    report["sends"] = collections.Counter(re.findall(" " + sends, program))
print("report", json.dumps(report))
'''


def run(devices=8, processes=1, **settings):
    """Run the script above in processes that share simulated devices; return their reports."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    settings = {"K": 8, "int8": False, "through_heads": False, "ids": [2, 5, 7]} | settings
    settings |= {"processes": processes, "address": address}
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
        "PYTHONPATH": str(ROOT / "src"),
        "JAX_PLATFORMS": "cpu",
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(settings | {"process": process})],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    reports = []
    try:
        for child in children:
            output, errors = child.communicate(timeout=300)
            assert child.returncode == 0, errors[-3000:]
            (line,) = (line for line in output.splitlines() if line.startswith("report "))
            reports.append(json.loads(line.removeprefix("report ")))
    finally:
        for child in children:
            child.kill()
    for report in reports:
        assert report["devices"] == devices and report["here"] == devices // processes
        assert len(set(report["single"][30:])) > 10  # a text in which an error would show
        assert report["shared"] == report["single"]
    return reports


def test_eight_devices_say_what_one_says():
    (report,) = run()
    assert report["sends"] == {"all-reduce": 1 + 2 * 3}
    parts = report["parts"]
    assert parts["embed_tokens"] == [[38, 16]] and parts["norm"] == [[16]]
    assert parts["self_attn.q_proj"] == [[8, 16]] and parts["self_attn.k_proj"] == [[4, 16]]
    assert parts["self_attn.o_proj"] == [[16, 8]] and parts["mlp.down_proj"] == [[16, 3]]
    assert parts["mlp.gate_proj"] == [[3, 16]] and parts["self_attn.k_norm"] == [[4]]


def test_a_single_key_head_is_not_cut():
    (report,) = run(K=1)
    assert report["sends"] == {"all-reduce": 1 + 3}
    assert report["parts"]["self_attn.q_proj"] == [[64, 16]]
    assert report["parts"]["mlp.up_proj"] == [[3, 16]]


def test_a_cut_through_heads_costs_exchanges_and_changes_nothing():
    (report,) = run(K=2, through_heads=True)
    assert sum(report["sends"].values()) > 1 + 2 * 3


def test_what_cannot_be_divided_stays_whole():
    (report,) = run(devices=5)
    assert all(report["parts"][part] == [shape] for part, shape in {
        "embed_tokens": [304, 16], "self_attn.q_proj": [64, 16], "mlp.down_proj": [16, 24],
    }.items())  # fmt: skip
    assert report["sends"] == {}


def test_weights_in_8_bits_go_with_their_scales():
    (report,) = run(int8=True)
    assert report["parts"]["mlp.gate_proj"] == [[3, 16], [3]]
    assert report["parts"]["mlp.down_proj"] == [[16, 3], [16]]


def test_a_prompt_longer_than_the_window():
    run(ids=[(7 * i) % 300 for i in range(40)])


def test_two_processes_with_four_devices_each_say_the_same():
    first, second = run(processes=2)
    assert first["shared"] == second["shared"]
