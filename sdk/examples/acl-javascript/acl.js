// A list of rules says who may do what below which folders: an example of a policy. The same in all languages.
import * as remora from "../../javascript/remora.js";

const actions = ["list", "stat", "read"];
const texts = remora.optional(remora.list(remora.string), []);

/** For requests of these users and groups for what lies below a folder; for all actions if it names none. */
const rule = remora.object({
  effect: remora.oneOf("allow", "deny"),
  users: texts,
  groups: texts,
  actions: texts,
  below: remora.where(remora.string, (path) => path.startsWith("/"), "an absolute path is wanted"),
});

/** The first rule that fits decides. */
export const authorize = remora.authorize({ rules: remora.optional(remora.list(rule), []) }, (settings) => {
  const folder = ({ below }) => new TextEncoder().encode(below.replace(/\/+$/, ""));
  const rules = settings.rules.map((rule) => ({ ...rule, folder: folder(rule) }));
  return (request) => {
    if (!actions.includes(request.action)) {
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

function fits(rule, { subject, action, path }) {
  const who = rule.users.includes(subject.user) || subject.groups.some((group) => rule.groups.includes(group));
  const what = rule.actions.length === 0 || rule.actions.includes(action);
  const below = rule.folder.every((byte, i) => path[i] === byte) && [undefined, 0x2f].includes(path[rule.folder.length]);
  return who && what && below;
}
