"""Policies that say which points of a VM are kept: see `wit/policy/0.1.0/retention.wit`."""

from wit_world import exports
from wit_world.exports.retention import Fate, FieldError, Pair, Point, Request, Verdict, Vm

from . import component

__all__ = ["Fate", "Pair", "Point", "Request", "Verdict", "Vm", "policy"]


def policy(settings: type) -> type:
    """The class `Retention` of the module that is made a component of; the settings have a method `judge(request)`, which
    gives a verdict for each of the request's points."""

    def judge(self, request):
        return self.policy.judge(request)

    return component(exports.Retention, FieldError, settings, judge=judge)
