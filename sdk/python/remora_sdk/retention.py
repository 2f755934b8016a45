"""Policies that say which points of a VM are kept: see `wit/policy/0.1.0/retention.wit`."""

from typing import Any, Callable

from wit_world import exports
from wit_world.exports.retention import Fate, FieldError, Pair, Point, Request, Verdict, Vm

from . import component

__all__ = ["Fate", "Pair", "Point", "Request", "Verdict", "Vm", "policy"]


def policy(create: Callable[[Any], Callable[[Request], list[Verdict]]]) -> type:
    """The class `Retention` of the module that is made a component of: a verdict for each of a request's points."""
    return component(exports.Retention, FieldError, create, judge=lambda self, request: self.policy(request))
