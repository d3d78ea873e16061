# Tangled from book/gemma3/devices.md; sha256 e4bfaa0b0ae2
"""The params of a Gemma 3 laid over several devices, for gemma3.py to run on as it is."""

import jax
from jax.sharding import NamedSharding, PartitionSpec

ROWS = (
    "embed_tokens", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj",
    "mlp.up_proj",
)
COLUMNS = "self_attn.o_proj", "mlp.down_proj"


def layout(config, part, shape, n):
    """How a part of the params is cut for n devices (Shoeybi et al., 2019); P(): not at all."""
    axis = 1 if part in COLUMNS else 0
    if part not in ROWS + COLUMNS or axis == len(shape) or shape[axis] % n:
        return PartitionSpec()
    if part.startswith("self_attn") and config.num_key_value_heads % n:
        return PartitionSpec()  # else the cut would go through a head
    return PartitionSpec(*[None] * axis, "model")


def place(config, params, mesh):
    """The params on the devices of mesh, which has one axis, named model; int8 or not."""
    def put(part, array):
        if isinstance(array, tuple):  # in 8 bits, with a scale
            return tuple(put(part, array) for array in array)
        spec = layout(config, part, array.shape, mesh.size)
        return jax.device_put(array, NamedSharding(mesh, spec))
    def put_all(parts):
        return {part: put(part, array) for part, array in parts.items() if part != "layers"}
    return put_all(params) | {"layers": [put_all(layer) for layer in params["layers"]]}
