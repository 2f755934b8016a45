"""Policies that say who may do what with the files of a point: see `wit/policy/0.1.0/authorize.wit`."""

from typing import Any, Callable

from wit_world import exports
from wit_world.exports.authorize import Approval, Decision, Effect, FieldError, Obligation, Pair, Request, Subject, Vm

from . import component

__all__ = ["Approval", "Decision", "Effect", "Obligation", "Pair", "Request", "Subject", "Vm", "decision", "policy"]


def decision(effect: Effect, code: str, reason: str) -> Decision:
    """A decision without obligations, which is not to be remembered."""
    return Decision(effect, code, reason, [], 0)


def policy(create: Callable[[Any], Callable[[Request], Decision]]) -> type:
    """The class `Authorize` of the module that is made a component of."""
    return component(
        exports.Authorize, FieldError, create, authorize=lambda self, requests: [self.policy(one) for one in requests]
    )
