"""Forward hooks that are not part of copies, pickles and scripted versions of the model.

Comes in: a module and a function. Goes out: calls of the function with the module's outputs.
Promise:  `torch.save`, `deepcopy` and `torch.jit.script` treat the module as if it had no hook of
          trainvitals; on a step that is not measured, the module has none.

torch's global module hooks would not change the model either. They are not used: while one is
registered, every call of a compiled model gives a UserWarning, which `-W error` makes an exception.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks


class OutputHook:
    """A forward hook; `was_called` is whether it was called outside compiled code.

    If the module had other hooks before, the hook is copied and pickled with them, as a callable
    of the standard library that does nothing.
    """

    def __init__(self, receive: Callable[..., None]) -> None:
        self.receive = receive
        self.was_called = False
        self.__name__ = "trainvitals_output_hook"  # torch reads the name of a hook

    def __call__(self, module: nn.Module, *args: object) -> None:
        if torch.compiler.is_compiling():
            return
        self.was_called = True
        if torch._C._get_tracing_state() is None:  # not inside torch.jit.trace
            self.receive(module, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> object:
        return contextlib.nullcontext().__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


class HookTable(OrderedDict[int, Any]):
    """A module's table of forward hooks in which only a call of the module finds an OutputHook.

    A call of the module reads `items`. `torch.jit.script` reads `values` and compiles the hooks
    in it. Copies and pickles become an ordinary OrderedDict of the other hooks.
    """

    def values(self) -> Any:
        """Return the hooks without those of trainvitals."""
        return [hook for _, hook in self._others()]

    def _others(self) -> list[tuple[int, Any]]:
        return [(i, hook) for i, hook in self.items() if not isinstance(hook, OutputHook)]

    def __deepcopy__(self, memo: dict[int, Any]) -> OrderedDict[int, Any]:
        copied = OrderedDict(copy.deepcopy(self._others(), memo))
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter(self._others())


class Hooked:
    """One hook on one module, until `remove`; `disarm` removes it for some steps.

    With `kwargs`, the function is called with (module, args, kwargs, output).
    """

    def __init__(
        self, module: nn.Module, receive: Callable[..., None], *, kwargs: bool = False
    ) -> None:
        self._hook = OutputHook(receive)
        self._module = module
        tables = ["_forward_hooks", "_forward_hooks_with_kwargs"][: 1 + kwargs]
        for name in tables:
            table = getattr(module, name)
            if not table and not isinstance(table, HookTable):
                # Replace only an empty table: handles of registered hooks refer to the old table.
                module.__dict__[name] = HookTable()
        self._handle = module.register_forward_hook(self._hook, with_kwargs=kwargs)
        if kwargs:
            # torch only tests its truth value; a HookTable leaves it out of copies.
            module._forward_hooks_with_kwargs[self._handle.id] = self._hook  # type: ignore[assignment]

    def arm(self) -> None:
        """Put the hook into the module's table."""
        self._module._forward_hooks[self._handle.id] = self._hook

    def disarm(self) -> None:
        """Remove the hook from the module's table: even an empty hook costs some microseconds.

        A hook that was never called stays: its module may be inside compiled code, which is
        compiled again when the table changes, and never calls the hook.
        """
        if self._hook.was_called:
            self._module._forward_hooks.pop(self._handle.id, None)

    def remove(self) -> None:
        """Remove the hook. Safe to call twice."""
        self._handle.remove()
        for name in ("_forward_hooks", "_forward_hooks_with_kwargs"):
            table = getattr(self._module, name)
            if isinstance(table, HookTable) and not table:
                self._module.__dict__[name] = OrderedDict()


CALLS: Final = 40


@functools.cache
def call_s() -> float:
    """Return the seconds that torch takes to call one hook, measured once in this process.

    A hook cannot measure this part of its cost: torch calls a module without hooks on a shorter
    code path. 0 if the program has hooks on all modules, which must not see the calls of this
    function.
    """
    if _global_forward_hooks or _global_forward_pre_hooks:
        return 0.0
    module, entry = nn.Identity(), torch.zeros(1, device="cpu")

    def fastest() -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            for _ in range(CALLS):
                module(entry)
            times.append(time.perf_counter() - started)
        return min(times)

    without = fastest()
    hooked = Hooked(module, lambda *_: None)
    try:
        return max(0.0, fastest() - without) / CALLS
    finally:
        hooked.remove()


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` was applied to this module, its `forward`, or in place."""
    forward = vars(module).get("forward")
    in_place = vars(module).get("_compiled_call_impl") is not None
    return in_place or hasattr(forward, "_torchdynamo_orig_callable")
