"""For authors of remora's policies in Python. What each call means, its units and limits stand in `wit/policy/0.1.0`; records have
the fields that are told there, in snake_case.

    from dataclasses import dataclass

    from remora_sdk import select

    @dataclass
    class Prefix:
        prefix: str

        def select(self, vm: select.Vm) -> select.Verdict:
            return select.Verdict(vm.name.startswith(self.prefix), f"the prefix is {self.prefix}")

    Select = select.policy(Prefix)

A policy is a dataclass of its settings with one method, which is asked one question. It is made once in an instance, and must
not remember anything from one question to the next: equal questions get equal answers. `time` and `random` are of no use.
"""

import dataclasses
import json
import typing
from typing import Any, Callable, Optional


class Invalid(Exception):
    """What `__post_init__` of a policy's settings raises: of each fault a JSON Pointer such as `/rules/0`, and what is wrong."""

    def __init__(self, *faults: tuple[str, str]):
        super().__init__("; ".join(f"{path}: {message}" for path, message in faults))
        self.faults = list(faults)


def label(vm: Any, key: str) -> Optional[str]:
    """The value of a VM's label."""
    return next((label.value for label in vm.labels if label.key == key), None)


def read(kind: Any, value: Any, path: str, faults: list[tuple[str, str]]) -> Any:
    """A value of the settings as this type: a dataclass, `list[…]`, `Literal[…]`, `Optional[…]`, str, int, float or bool."""
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return read_fields(kind, value, path, faults)
    if outer is list:
        if isinstance(value, list):
            return [read(inner[0], item, f"{path}/{i}", faults) for i, item in enumerate(value)]
        faults.append((path, "a list is wanted"))
    elif outer is typing.Literal:
        if value not in inner:
            faults.append((path, f"{' or '.join(map(str, inner))} is wanted"))
    elif outer is typing.Union:
        return None if value is None else read(inner[0], value, path, faults)
    elif type(value) is not kind and not (kind is float and type(value) is int):
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        faults.append((path, f"{names.get(kind, kind)} is wanted"))
    return value


def read_fields(kind: type, value: Any, path: str, faults: list[tuple[str, str]]) -> Any:
    """A mapping with the dataclass's fields and no others."""
    if not isinstance(value, dict):
        faults.append((path, "a mapping is wanted"))
        return None
    before = len(faults)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in sorted(value.keys() - fields.keys()):
        faults.append((f"{path}/{name.replace('~', '~0').replace('/', '~1')}", "there is no such setting"))
    hints, given = typing.get_type_hints(kind), {}
    for name, field in fields.items():
        if name in value:
            given[name] = read(hints[name], value[name], f"{path}/{name}", faults)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append((f"{path}/{name}", "it is missing"))
    if len(faults) > before:
        return None
    try:
        return kind(**given)
    except Invalid as invalid:
        faults.extend((path + at, message) for at, message in invalid.faults)
        return None


class Configured:
    """What the four interfaces have in common: the policy of this instance."""

    policy: Any = None
    settings: type
    fault: Callable[[str, str], Any]

    def configure(self, settings: str) -> list:
        from componentize_py_types import Err

        faults: list[tuple[str, str]] = []
        made = read_fields(self.settings, json.loads(settings), "", faults)
        if faults:
            raise Err([self.fault(path, message) for path, message in faults])
        type(self).policy = made
        return []


def component(interface: type, fault: type, settings: type, **calls: Callable) -> type:
    """The class that the component is made of."""
    return type(interface.__name__, (Configured, interface), {"settings": settings, "fault": fault, **calls})
