"""Policies that say who may do what with the files of a point: see `wit/policy/0.1.0/authorize.wit`."""

from wit_world import exports
from wit_world.exports.authorize import Approval, Decision, Effect, FieldError, Obligation, Pair, Request, Subject, Vm

from . import component

__all__ = ["Approval", "Decision", "Effect", "Obligation", "Pair", "Request", "Subject", "Vm", "decision", "policy"]


def decision(effect: Effect, code: str, reason: str) -> Decision:
    """A decision without obligations, which is not to be remembered."""
    return Decision(effect, code, reason, [], 0)


def policy(settings: type) -> type:
    """The class `Authorize` of the module that is made a component of; the settings have a method `authorize(request)`."""

    def authorize(self, requests):
        return [self.policy.authorize(one) for one in requests]

    return component(exports.Authorize, FieldError, settings, authorize=authorize)
