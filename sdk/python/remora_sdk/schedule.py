"""Policies that say when the next backup of a VM is due: see `wit/policy/0.1.0/schedule.wit`."""

from typing import Any, Callable

from wit_world import exports
from wit_world.exports.schedule import Answer, FieldError, Pair, Request, Run, Vm

from . import component

__all__ = ["Answer", "Pair", "Request", "Run", "Vm", "policy"]


def policy(create: Callable[[Any], Callable[[Request], Answer]]) -> type:
    """The class `Schedule` of the module that is made a component of."""
    return component(
        exports.Schedule, FieldError, create, next=lambda self, requests: [self.policy(one) for one in requests]
    )
