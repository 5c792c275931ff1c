"""Find the parameter tensors of the models, each once, and describe them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from trainvitals.structure.order import ModuleFacts
from trainvitals.wire import Place

DTYPES: Final = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
"""The types of parameters that are measured, with their number in the kernels."""
NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass
class Parameter:
    """One tensor of the model under its first name."""

    name: str
    tensor: nn.Parameter
    owner: nn.Module
    module: str
    aliases: list[str] = field(default_factory=list)


def parameters_of(models: Mapping[str, nn.Module]) -> dict[int, Parameter]:
    """Return id → parameter of all models, in order; tied tensors once, with their other names.

    `models` maps a prefix ("" for a single model) to each model.
    """
    found: dict[int, Parameter] = {}
    for prefix, model in models.items():
        for module_name, module in model.named_modules(prefix=prefix):
            for name, tensor in module._parameters.items():
                if tensor is None:
                    continue
                full = f"{module_name}.{name}" if module_name else name
                if id(tensor) in found:
                    found[id(tensor)].aliases.append(full)
                else:
                    found[id(tensor)] = Parameter(full, tensor, module, module_name)
    return found


def reason_not_measured(tensor: Tensor) -> str | None:
    """Return why a tensor cannot be measured; None if it can."""
    if nn.parameter.is_lazy(tensor):
        return "it is not initialised yet (lazy module)"
    if tensor.is_meta:
        return "it has no data (meta device)"
    if tensor.layout is not torch.strided:
        return f"its layout is {tensor.layout}"
    if tensor.is_quantized:
        return "it is quantised"
    if tensor.dtype not in DTYPES:
        return f"its type is {tensor.dtype}"
    if hasattr(tensor, "full_tensor") or tensor.is_nested:
        return f"it is a {type(tensor).__name__} without a part of its own in this process"
    return None


def local_of(tensor: Tensor) -> Tensor:
    """Return the part of a DTensor in this process, as it is in memory; other tensors unchanged.

    A DTensor whose value is a sum over ranks that was not taken yet is returned unchanged.
    """
    sharded: Any = tensor
    if not hasattr(tensor, "full_tensor") or any(p.is_partial() for p in sharded.placements):
        return tensor
    local: Tensor = sharded._local_tensor
    return local


class Sharding(NamedTuple):
    """How parameters are divided over ranks.

    `description` names the placements and the sizes of the mesh, one for each different way.
    `replicas` is the number of ranks that hold the same entries; 0 if it is not the same for all.
    """

    description: str
    replicas: int


def sharding_of(models: Mapping[str, nn.Module]) -> Sharding | None:
    """Return how the parameters are divided; None if each rank has all entries of all of them."""
    ways: dict[str, int] = {}
    is_divided = False
    for parameter in (p for model in models.values() for p in model.parameters()):
        sharded: Any = parameter
        if not hasattr(parameter, "full_tensor"):
            ways[""] = 0  # the number of ranks with the same entries is not known here
            continue
        sizes = tuple(sharded.device_mesh.shape)
        placed = list(zip(sharded.placements, sizes, strict=True))
        is_divided |= any(size > 1 and not p.is_replicate() for p, size in placed)
        text = ", ".join(f"{_name(p)} over {size}" for p, size in placed)
        ways[text] = math.prod(size for p, size in placed if p.is_replicate())
    if not is_divided:
        return _older_sharding_of(models)
    replicas = set(ways.values())
    same = replicas.pop() if len(replicas) == 1 else 0
    return Sharding("; ".join(way for way in ways if way), same)


def _older_sharding_of(models: Mapping[str, nn.Module]) -> Sharding | None:
    """Return how FullyShardedDataParallel divides the parameters; it keeps plain tensors."""
    strategies: set[str] = set()
    for model in models.values():
        for module in model.modules():
            if type(module).__name__ == "FullyShardedDataParallel":
                strategy: Any = getattr(module, "sharding_strategy", None)
                strategies.add(getattr(strategy, "name", "unknown"))
    if not strategies - {"NO_SHARD"}:
        return None
    roots = all(type(m).__name__ == "FullyShardedDataParallel" for m in models.values())
    is_known = roots and strategies <= {"FULL_SHARD", "SHARD_GRAD_OP"}
    return Sharding("FullyShardedDataParallel, " + ", ".join(sorted(strategies)), int(is_known))


def _name(placement: Any) -> str:
    return "replicated" if placement.is_replicate() else f"shard({getattr(placement, 'dim', '?')})"


def place_of(parameter: Parameter, facts: ModuleFacts | None, *, optimized: bool) -> Place:
    """Return the row of a parameter, with the facts about its module."""
    owner, tensor = parameter.owner, parameter.tensor
    flags = []
    if (local := local_of(tensor)).shape != tensor.shape:
        flags.append("shard")
    if facts and facts.output:
        flags.append("output")
    if facts and facts.before_norm:
        flags.append("before_norm")
    if isinstance(owner, RECURRENT):
        flags.append("recurrent")
    if isinstance(owner, nn.MultiheadAttention) or "attn" in parameter.module.lower():
        flags.append("attention")
    return Place(
        parameter.name,
        kind=kind_of(parameter),
        shape=tuple(local.shape),
        depth=facts.depth if facts else -1,
        module=parameter.module,
        module_kind=type(owner).__name__,
        nonlinearity=facts.nonlinearity if facts else "",
        trainable=tensor.requires_grad,
        optimized=optimized,
        aliases=tuple(parameter.aliases),
        flags=tuple(flags),
    )


def kind_of(parameter: Parameter) -> str:
    """Return weight, bias, norm_scale, norm_shift or embedding."""
    name = parameter.name.rpartition(".")[2]
    if isinstance(parameter.owner, NORMS):
        return "norm_shift" if "bias" in name else "norm_scale"
    if isinstance(parameter.owner, EMBEDDINGS):
        return "embedding"
    return "bias" if "bias" in name else "weight"


def optimized_ids(optimizers: Iterable[torch.optim.Optimizer]) -> set[int]:
    """Return the ids of all tensors in the optimizers' groups."""
    return {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
