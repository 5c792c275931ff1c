"""Facts about the models and the loss that rules read, from what the program passed to `watch`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import distributed, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from trainvitals.capture import reasons
from trainvitals.capture.guard import log
from trainvitals.capture.loss import kind_of_loss, name_of
from trainvitals.structure.parameters import RECURRENT, local_of, reason_not_measured, sharding_of


def facts_of(models: Mapping[str, nn.Module], loss: object) -> dict[str, str | float]:
    """Return the number of measured entries, the device, the sharding and the kind of loss.

    `dropout_max` is the largest probability of a Dropout module, 0 to 1, and `dropout_max_module`
    the name of the first module that has it; both are absent without such modules.
    `norm_momentum_min` and `norm_momentum_max` are the smallest and largest momentum of the running
    statistics of BatchNorm, and `norm_momentum_max_module` is the name of one module with the
    largest; absent without such modules. `norm_statistics_known` is 1 if the statistics of the
    module with the smallest momentum are not the initial ones: a pretrained model.
    `requires_grad_attributes` lists the modules, separated by commas, whose attribute
    `requires_grad` is True while a parameter of theirs is frozen; absent without such modules.
    `encoder_decoder` is 1 if a module has an encoder and a decoder, otherwise absent.
    `world_size` is the number of ranks of the default process group, absent if there is none;
    `data_parallel` lists the names of the modules that are a DistributedDataParallel, separated by
    commas, "." for the model itself; absent without such modules.

    Logs a warning for a model without parameters, and for a loss that is no module.
    """
    owned = [p for model in models.values() for p in model.parameters()]
    measured = [p for p in owned if reason_not_measured(local_of(p)) is None]
    facts: dict[str, str | float] = {"parameters": float(sum(p.numel() for p in measured))}
    if (sharding := sharding_of(models)) is not None:
        facts["sharding"] = sharding.description
    if distributed.is_available() and distributed.is_initialized():
        facts["world_size"] = float(distributed.get_world_size())
    if wrapped := _data_parallel(models):
        facts["data_parallel"] = ",".join(wrapped)
    if not owned:
        log.warning("The model has no parameters: only the loss and logged values are watched.")
    else:
        facts["device"] = owned[0].device.type
    dropouts = [
        (float(module.p), name)
        for model in models.values()
        for name, module in model.named_modules()
        if isinstance(module, _DropoutNd)
    ]
    if dropouts:
        facts["dropout_max"], facts["dropout_max_module"] = max(dropouts, key=lambda d: d[0])
    facts |= _norm_facts(models)
    if any(_has_encoder_and_decoder(m) for model in models.values() for m in model.modules()):
        facts["encoder_decoder"] = 1.0
    if frozen := _attribute_without_effect(models):
        facts["requires_grad_attributes"] = ",".join(frozen)
    if loss is not None:
        facts["loss"] = kind_of_loss(loss)
        if not isinstance(loss, nn.Module):
            log.warning(reasons.LOSS_IS_NO_MODULE, name_of(loss))
    return facts


def _norm_facts(models: Mapping[str, nn.Module]) -> dict[str, str | float]:
    norms = [
        (module, name)
        for model in models.values()
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None and module.momentum
    ]
    if not norms:
        return {}
    slowest, _ = min(norms, key=lambda n: n[0].momentum or 0.0)
    fastest, name = max(norms, key=lambda n: (n[0].momentum or 0.0, n[1]))
    facts: dict[str, str | float] = {
        "norm_momentum_min": slowest.momentum or 0.0,
        "norm_momentum_max": fastest.momentum or 0.0,
        "norm_momentum_max_module": name,
    }
    mean = slowest.running_mean
    # Read once, before the training: here an accelerator may be waited for.
    if mean is not None and reason_not_measured(mean) is None and bool(mean.any()):
        facts["norm_statistics_known"] = 1.0
    return facts


def _attribute_without_effect(models: Mapping[str, nn.Module]) -> list[str]:
    """Return the modules for which `module.requires_grad = True` was meant to unfreeze them.

    The assignment sets an attribute of the module; `requires_grad_(True)` sets its parameters.
    """
    return [
        name or "."
        for prefix, model in models.items()
        for name, module in model.named_modules(prefix=prefix)
        if vars(module).get("requires_grad") is True
        and any(not p.requires_grad for p in module.parameters())
    ]


def _data_parallel(models: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the modules whose gradients DistributedDataParallel reduces."""
    return [
        name or "."
        for prefix, model in models.items()
        for name, module in model.named_modules(prefix=prefix)
        if any(kind.__name__ == "DistributedDataParallel" for kind in type(module).__mro__)
    ]


def _has_encoder_and_decoder(module: nn.Module) -> bool:
    """Whether a child is an encoder and another a decoder, each of several layers or recurrent.

    Not an embedding or one linear layer: language models name these encoder and decoder too.
    """
    parts = {
        name[:3].lower()
        for name, child in module.named_children()
        if isinstance(child, RECURRENT) or any(True for _ in child.children())
    }
    return {"enc", "dec"} <= parts
