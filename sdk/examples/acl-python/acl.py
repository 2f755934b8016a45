"""A list of rules says who may do what below which folders: an example of a policy. The same in all languages."""

from dataclasses import dataclass, field
from typing import Literal

from remora_sdk import Invalid
from remora_sdk.authorize import Decision, Effect, Request, decision, policy

ACTIONS = ("list", "stat", "read")


@dataclass
class Rule:
    """For requests of these users and groups for what lies below a folder; for all actions if it names none."""

    effect: Literal["allow", "deny"]
    below: str
    users: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)

    def __post_init__(self):
        if not self.below.startswith("/"):
            raise Invalid(("/below", "an absolute path is wanted"))
        self.folder = self.below.rstrip("/").encode()

    def fits(self, request: Request) -> bool:
        subject, path = request.subject, request.path
        who = subject.user in self.users or any(group in self.groups for group in subject.groups)
        what = not self.actions or request.action in self.actions
        return who and what and (path == self.folder or path.startswith(self.folder + b"/"))


@dataclass
class Acl:
    """The first rule that fits decides."""

    rules: list[Rule] = field(default_factory=list)

    def authorize(self, request: Request) -> Decision:
        if request.action not in ACTIONS:
            return decision(Effect.DENY, "unknown-action", "the action is not known")
        for number, rule in enumerate(self.rules, 1):
            if rule.fits(request):
                reason = f"rule {number} is for {rule.below}"
                if rule.effect == "allow":
                    return decision(Effect.ALLOW, "allowed", reason)
                return decision(Effect.DENY, "denied", reason)
        return decision(Effect.ABSTAIN, "no-rule", "no rule fits")


Authorize = policy(Acl)
