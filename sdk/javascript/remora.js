// For authors of remora's policies in JavaScript. What each call means, its units and limits stand in `wit/policy/0.1.0`; records
// have the fields that are told there, in camelCase, 64-bit numbers are BigInt, bytes are a Uint8Array.
//
//     import * as remora from "./remora/remora.js";
//     export const select = remora.select({ prefix: remora.string }, ({ prefix }) => (vm) => ({
//       selected: vm.name.startsWith(prefix),
//       reason: `the prefix is ${prefix}`,
//     }));
//
// A policy is what its settings look like, and a function of them that gives a function of one question. It is made once in
// an instance, and must not remember anything from one question to the next: equal questions get equal answers. There is no
// clock and no chance in it: `Date` and `Math.random` are of no use.

// What settings look like: a function of a value, where it lies, and a list of `{ path, message }` to add to.

const typed = (type, message) => (value, path, wrong) => {
  if (typeof value !== type) {
    wrong.push({ path, message });
  }
  return value;
};
export const string = typed("string", "a text is wanted");
export const number = typed("number", "a number is wanted");
export const boolean = typed("boolean", "true or false is wanted");

/** One of these values. */
export const oneOf = (...values) => where((value) => value, (value) => values.includes(value), `${values.join(" or ")} is wanted`);

/** Such a value of which something holds, or else there is this to say of it. */
export const where = (shape, holds, message) => (value, path, wrong) => {
  const before = wrong.length;
  const read = shape(value, path, wrong);
  if (wrong.length === before && !holds(read)) {
    wrong.push({ path, message });
  }
  return read;
};

/** A list of such values. */
export const list = (item) => (value, path, wrong) => {
  if (Array.isArray(value)) {
    return value.map((one, i) => item(one, `${path}/${i}`, wrong));
  }
  wrong.push({ path, message: "a list is wanted" });
};

/** A field that need not be there; it is `otherwise` then. */
export const optional = (shape, otherwise) =>
  Object.assign((value, path, wrong) => (value === undefined ? otherwise : shape(value, path, wrong)), { optional: true });

/** An object with these fields and no others. */
export const object = (fields) => (value, path, wrong) => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    wrong.push({ path, message: "a mapping is wanted" });
    return;
  }
  const at = (name) => `${path}/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;
  for (const name of Object.keys(value).filter((name) => !Object.hasOwn(fields, name))) {
    wrong.push({ path: at(name), message: "there is no such setting" });
  }
  const read = Object.entries(fields).map(([name, shape]) => {
    if (!Object.hasOwn(value, name) && !shape.optional) {
      wrong.push({ path: at(name), message: "it is missing" });
      return [name, undefined];
    }
    return [name, shape(Object.hasOwn(value, name) ? value[name] : undefined, at(name), wrong)];
  });
  return Object.fromEntries(read);
};

/** The text of a request's path, for those who need one; what is no UTF-8 in it is replaced. */
export const text = (path) => new TextDecoder().decode(path);

/** The value of a VM's label; undefined if there is none. */
export const label = (vm, key) => vm.labels.find((label) => label.key === key)?.value;

/** A decision without obligations, which is not to be remembered: `effect` is "allow", "deny" or "abstain". */
export const decision = (effect, code, reason) => ({ effect, code, reason, obligations: [], cacheTtlMs: 0 });

/** The component's interface `select`: of a VM, `{ selected, reason }`. */
export const select = (fields, create) => each(fields, create, "select");

/** `schedule`: of a request, `{ start, reason }`; `start` is undefined if there is no next occasion. */
export const schedule = (fields, create) => each(fields, create, "next");

/** `retention`: of a request, a list of `{ fate, reason }` for its points; `fate` is "keep" or "drop". */
export function retention(fields, create) {
  const made = configured(fields, create);
  return { configure: made.configure, judge: (request) => made.policy(request) };
}

/** `authorize`: of a request, a `decision`. */
export const authorize = (fields, create) => each(fields, create, "authorize");

/** An interface that is asked many questions at once. */
function each(fields, create, name) {
  const made = configured(fields, create);
  return { configure: made.configure, [name]: (questions) => questions.map((one) => made.policy(one)) };
}

function configured(fields, create) {
  const made = {
    configure(settings) {
      const wrong = [];
      const read = object(fields)(JSON.parse(settings), "", wrong);
      if (wrong.length > 0) {
        throw Object.assign(new Error("the settings are wrong"), { payload: wrong });
      }
      made.policy = create(read);
      return [];
    },
  };
  return made;
}
