"""Selects the VMs whose names begin in some way."""

from dataclasses import dataclass

from remora_sdk import Invalid
from remora_sdk.select import Verdict, Vm, policy


@dataclass
class Prefix:
    prefix: str

    def __post_init__(self):
        if not self.prefix:
            raise Invalid(("/prefix", "it is empty"))

    def select(self, vm: Vm) -> Verdict:
        selected = vm.name.startswith(self.prefix)
        return Verdict(selected, f"the name {'begins' if selected else 'does not begin'} with {self.prefix}")


Select = policy(Prefix)
