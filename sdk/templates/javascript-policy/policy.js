// Selects the VMs whose names begin in some way.
import * as remora from "./remora/remora.js";

const prefix = remora.where(remora.string, (text) => text !== "", "it is empty");

export const select = remora.select({ prefix }, ({ prefix }) => (vm) => {
  const selected = vm.name.startsWith(prefix);
  return { selected, reason: `the name ${selected ? "begins" : "does not begin"} with ${prefix}` };
});
