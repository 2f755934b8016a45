// For authors of remora's policies in JavaScript. What each call means, its units and limits stand in `wit/policy`; records
// have the fields that are told there, in camelCase, 64-bit numbers are BigInt, bytes are a Uint8Array.
//
//     import * as remora from "./remora.js";
//     export const select = remora.select(({ prefix }) => (vm) => ({ selected: vm.name.startsWith(prefix), reason: "…" }));
//
// A policy is a function of its settings that gives a function of one question. It is made once in an instance, and must not
// remember anything from one question to the next: equal questions get equal answers.

/** Settings that a policy does not take: thrown by the function that makes it. */
export class Invalid extends Error {
  /** @param {...[string, string]} fields of each a JSON Pointer such as `/rules/0`, and what is wrong there */
  constructor(...fields) {
    super(fields.map(([path, message]) => `${path}: ${message}`).join("; "));
    this.payload = fields.map(([path, message]) => ({ path, message }));
  }
}

/** What is wrong with the names of an object's fields, as `Invalid` takes it: those that are not among these. */
export function unknown(object, names, path = "") {
  const strange = Object.keys(object).filter((name) => !names.includes(name));
  return strange.map((name) => [`${path}/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`, "there is no such setting"]);
}

/** The text of a request's path, for those who need one; what is no UTF-8 in it is replaced. */
export const text = (path) => new TextDecoder().decode(path);

/** The value of a VM's label; undefined if there is none. */
export const label = (vm, key) => vm.labels.find((label) => label.key === key)?.value;

/** A decision without obligations, which is not to be remembered: `effect` is "allow", "deny" or "abstain". */
export const decision = (effect, code, reason) => ({ effect, code, reason, obligations: [], cacheTtlMs: 0 });

/** The component's interface `select`: `create(settings)` gives a function of a VM that returns `{ selected, reason }`. */
export const select = (create) => each(create, "select");

/** `schedule`: of a request, `{ start, reason }`; `start` is undefined if there is no next occasion. */
export const schedule = (create) => each(create, "next");

/** `retention`: of a request, a list of `{ fate, reason }` for its points; `fate` is "keep" or "drop". */
export function retention(create) {
  let policy;
  return { configure: configured(create, (made) => (policy = made)), judge: (request) => policy(request) };
}

/** `authorize`: of a request, a `decision`. */
export const authorize = (create) => each(create, "authorize");

/** An interface that is asked many questions at once. */
function each(create, name) {
  let policy;
  return { configure: configured(create, (made) => (policy = made)), [name]: (questions) => questions.map((one) => policy(one)) };
}

function configured(create, keep) {
  return (settings) => {
    try {
      keep(create(JSON.parse(settings)));
    } catch (error) {
      throw error instanceof Invalid ? error : new Invalid(["", `they cannot be read: ${error.message}`]);
    }
    return [];
  };
}
