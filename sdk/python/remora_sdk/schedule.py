"""Policies that say when the next backup of a VM is due: see `wit/policy/0.1.0/schedule.wit`."""

from wit_world import exports
from wit_world.exports.schedule import Answer, FieldError, Pair, Request, Run, Vm

from . import component

__all__ = ["Answer", "Pair", "Request", "Run", "Vm", "policy"]


def policy(settings: type) -> type:
    """The class `Schedule` of the module that is made a component of; the settings have a method `next(request)`."""

    def next(self, requests):
        return [self.policy.next(one) for one in requests]

    return component(exports.Schedule, FieldError, settings, next=next)
