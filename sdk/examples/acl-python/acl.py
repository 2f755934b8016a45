"""A list of rules says who may do what below which folders: an example of a policy. The same in all languages."""

from remora_sdk import Invalid, unknown
from remora_sdk.authorize import Decision, Effect, Request, decision, policy

KNOWN = ("list", "stat", "read")


def create(settings: dict):
    """Settings: `rules`, of which the first one that fits decides."""
    rules = check(settings)

    def authorize(request: Request) -> Decision:
        if request.action not in KNOWN:
            return decision(Effect.DENY, "unknown-action", "the action is not known")
        for number, rule in enumerate(rules, 1):
            if fits(rule, request):
                reason = f"rule {number} is for {rule['below']}"
                if rule["effect"] == "allow":
                    return decision(Effect.ALLOW, "allowed", reason)
                return decision(Effect.DENY, "denied", reason)
        return decision(Effect.ABSTAIN, "no-rule", "no rule fits")

    return authorize


def check(settings: dict) -> list[dict]:
    wrong = unknown(settings, ["rules"])
    rules = settings.get("rules", [])
    for i, rule in enumerate(rules):
        wrong += unknown(rule, ["effect", "users", "groups", "actions", "below"], f"/rules/{i}")
        if rule.get("effect") not in ("allow", "deny"):
            wrong.append((f"/rules/{i}/effect", "allow or deny is wanted"))
        if not rule.get("below", "").startswith("/"):
            wrong.append((f"/rules/{i}/below", "an absolute path is wanted"))
    if wrong:
        raise Invalid(*wrong)
    return rules


def fits(rule: dict, request: Request) -> bool:
    subject = request.subject
    who = subject.user in rule.get("users", []) or any(group in rule.get("groups", []) for group in subject.groups)
    what = not rule.get("actions") or request.action in rule["actions"]
    folder = rule["below"].rstrip("/").encode()
    below = request.path == folder or request.path.startswith(folder + b"/")
    return who and what and below


Authorize = policy(create)
