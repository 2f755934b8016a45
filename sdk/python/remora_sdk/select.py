"""Policies that say which VMs a backup policy is for: see `wit/policy/0.1.0/select.wit`."""

from typing import Any, Callable

from wit_world import exports
from wit_world.exports.select import FieldError, Pair, Verdict, Vm

from . import component

__all__ = ["Pair", "Verdict", "Vm", "policy"]


def policy(create: Callable[[Any], Callable[[Vm], Verdict]]) -> type:
    """The class `Select` of the module that is made a component of."""
    return component(exports.Select, FieldError, create, select=lambda self, vms: [self.policy(vm) for vm in vms])
