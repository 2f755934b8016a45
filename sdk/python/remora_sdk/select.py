"""Policies that say which VMs a backup policy is for: see `wit/policy/0.1.0/select.wit`."""

from wit_world import exports
from wit_world.exports.select import FieldError, Pair, Verdict, Vm

from . import component

__all__ = ["Pair", "Verdict", "Vm", "policy"]


def policy(settings: type) -> type:
    """The class `Select` of the module that is made a component of; the settings have a method `select(vm)`."""

    def select(self, vms):
        return [self.policy.select(one) for one in vms]

    return component(exports.Select, FieldError, settings, select=select)
