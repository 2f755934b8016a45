// A list of rules says who may do what below which folders: an example of a policy. The same in all languages.
import * as remora from "../../javascript/remora.js";

const known = ["list", "stat", "read"];

/** Settings: `rules`, of which the first one that fits decides. */
export const authorize = remora.authorize((settings) => {
  const rules = check(settings);
  return (request) => {
    if (!known.includes(request.action)) {
      return remora.decision("deny", "unknown-action", "the action is not known");
    }
    const number = rules.findIndex((rule) => fits(rule, request));
    if (number < 0) {
      return remora.decision("abstain", "no-rule", "no rule fits");
    }
    const { effect, below } = rules[number];
    return remora.decision(effect, effect === "allow" ? "allowed" : "denied", `rule ${number + 1} is for ${below}`);
  };
});

function check(settings) {
  const wrong = remora.unknown(settings, ["rules"]);
  const rules = settings.rules ?? [];
  rules.forEach((rule, i) => {
    wrong.push(...remora.unknown(rule, ["effect", "users", "groups", "actions", "below"], `/rules/${i}`));
    if (!["allow", "deny"].includes(rule.effect)) {
      wrong.push([`/rules/${i}/effect`, "allow or deny is wanted"]);
    }
    if (!rule.below?.startsWith("/")) {
      wrong.push([`/rules/${i}/below`, "an absolute path is wanted"]);
    }
  });
  if (wrong.length > 0) {
    throw new remora.Invalid(...wrong);
  }
  const folder = (rule) => new TextEncoder().encode(rule.below.replace(/\/+$/, ""));
  return rules.map((rule) => ({ users: [], groups: [], actions: [], ...rule, folder: folder(rule) }));
}

function fits({ users, groups, actions, folder }, { subject, action, path }) {
  const who = users.includes(subject.user) || subject.groups.some((group) => groups.includes(group));
  const what = actions.length === 0 || actions.includes(action);
  const below = folder.every((byte, i) => path[i] === byte) && [undefined, 0x2f].includes(path[folder.length]);
  return who && what && below;
}
