import * as remora from "./remora/remora.js";

export const select = remora.select({ prefix: remora.string }, ({ prefix }) => (vm) => {
  return { selected: vm.name.startsWith(prefix), reason: prefix };
});

export const schedule = remora.schedule({ every: remora.number }, ({ every }) => ({ vm, after, seed, runs }) => {
  if (remora.label(vm, "backup") === "never") {
    return { reason: "never" };
  }
  const much = runs.some((run) => run.changed >= 1n << 40n && run.size === 1n << 41n && run.seconds === 60n);
  return { start: after + (much ? 60n : BigInt(every) + (seed % 16n)), reason: "then" };
});

export const retention = remora.retention({ last: remora.number }, ({ last }) => ({ points }) => {
  return points.map((point, i) => ({ fate: i + last < points.length ? "drop" : "keep", reason: `${point.time}` }));
});
