"""For authors of remora's policies in Python. What each call means, its units and limits stand in `wit/policy`; records have
the fields that are told there, in snake_case.

A policy is a function of its settings that gives a function of one question. It is made once in an instance, and must not
remember anything from one question to the next: equal questions get equal answers.

    from remora_sdk import select

    Select = select.policy(lambda settings: lambda vm: select.Verdict(vm.name.startswith(settings["prefix"]), "…"))
"""

import json
from typing import Any, Callable, Iterable, Optional


class Invalid(Exception):
    """Settings that a policy does not take: of each a JSON Pointer such as `/rules/0`, and what is wrong there."""

    def __init__(self, *fields: tuple[str, str]):
        super().__init__("; ".join(f"{path}: {message}" for path, message in fields))
        self.fields = fields


def unknown(settings: dict[str, Any], names: Iterable[str], path: str = "") -> list[tuple[str, str]]:
    """What is wrong with the names of fields, as `Invalid` takes it: those that are not among these."""
    strange = (name for name in settings if name not in names)
    return [(f"{path}/{name.replace('~', '~0').replace('/', '~1')}", "there is no such setting") for name in strange]


def label(vm: Any, key: str) -> Optional[str]:
    """The value of a VM's label."""
    return next((label.value for label in vm.labels if label.key == key), None)


class Configured:
    """What the four interfaces have in common: the policy of this instance."""

    create: Callable[[Any], Callable]
    policy: Callable
    wrong: Callable

    def configure(self, settings: str) -> list:
        from componentize_py_types import Err

        kind = type(self)
        try:
            kind.policy = staticmethod(kind.create(json.loads(settings)))
        except Invalid as invalid:
            raise Err([kind.wrong(*field) for field in invalid.fields]) from invalid
        except Exception as error:
            raise Err([kind.wrong("", f"they cannot be read: {type(error).__name__}: {error}")]) from error
        return []


def component(interface: type, wrong: type, create: Callable, **calls: Callable) -> type:
    """The class that the component is made of."""
    body = {"create": staticmethod(create), "wrong": wrong, **calls}
    return type(interface.__name__, (Configured, interface), body)
