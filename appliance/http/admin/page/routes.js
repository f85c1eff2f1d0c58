import {call, get, segment} from "./api.js";
import {act, confirmed, field, fill, h, table} from "./dom.js";
import {refresh} from "./refresh.js";

export const id = "routes";
export const title = "Routes & VPNs";
const KINDS = ["PREFIX", "EXACT", "GLOB"];

export function show(host, hive, signal) {
  host.append(panel(hive, signal, {
    name: "Routes", path: `/hives/${hive}/routes`, key: "prefix", list: "routes", empty: "No static route: every node is found by its name.",
    columns: [["Match", (one) => one.match_kind ?? "PREFIX"], ["Action", (one) => one.action], ["Next hop", (one) => one.next_hop_hive]],
    fields: () => {
      const prefix = h("input", {required: true, placeholder: "AI.sales.", spellcheck: "false"});
      const kind = choice(KINDS);
      const action = choice(["FORWARD", "DROP"]);
      const hop = h("input", {placeholder: "hive (optional)", spellcheck: "false"});
      const priority = h("input", {type: "number", min: 0, max: 65535, placeholder: "100"});
      return [[field("Name or prefix", prefix), field("Match", kind), field("Action", action), field("Next hop", hop), field("Priority", priority)],
        () => ({prefix: prefix.value.trim(), match_kind: kind.value, action: action.value,
          ...(hop.value.trim() ? {next_hop_hive: hop.value.trim()} : {}), ...number("priority", priority)})];
    },
  }), panel(hive, signal, {
    name: "VPNs", path: `/hives/${hive}/vpns`, key: "pattern", list: "vpns", empty: "No rule: every node is in VPN 0.",
    columns: [["Match", (one) => one.match_kind ?? "PREFIX"], ["VPN", (one) => one.vpn_id, "number"]],
    fields: () => {
      const pattern = h("input", {required: true, placeholder: "IO.*", spellcheck: "false"});
      const kind = choice(KINDS);
      const vpn = h("input", {type: "number", min: 0, required: true, placeholder: "12"});
      const priority = h("input", {type: "number", min: 0, max: 65535, placeholder: "100"});
      return [[field("Pattern", pattern), field("Match", kind), field("VPN id", vpn), field("Priority", priority)],
        () => ({pattern: pattern.value.trim(), match_kind: kind.value, vpn_id: Number(vpn.value), ...number("priority", priority)})];
    },
  }));
}

const choice = (words) => h("select", {}, words.map((word) => h("option", {value: word}, word)));
const number = (name, input) => input.value === "" ? {} : {[name]: Number(input.value)};

function panel(hive, signal, kind) {
  const list = h("div");
  const [controls, read] = kind.fields();
  const form = h("form", {}, h("div", {class: "grid"}, controls),
    h("p", {class: "actions"}, h("button", {type: "submit", class: "primary"}, "Add")));
  const again = refresh(async () => {
    const answer = (await get(kind.path)).payload;
    fill(list, table([
      [kind.key === "prefix" ? "Name or prefix" : "Pattern", (one) => one[kind.key], "name"],
      ...kind.columns, ["Priority", (one) => one.priority ?? 100, "number"],
      ["", (one) => h("div", {class: "row-actions"}, h("button", {type: "button", class: "danger", "aria-label": `Delete ${one[kind.key]}`,
        onclick: async (event) => {
          if (!await confirmed(`Delete ${one[kind.key]}?`, "It stops to count at once.", "Delete")) return;
          await act(event.target, () => call("DELETE", `${kind.path}/${segment(one[kind.key])}`), "deleted");
          again();
        }}, "Delete"))],
    ], answer[kind.list] ?? [], kind.empty));
  }, 5000, signal, (error) => fill(list, h("p", {class: "bad"}, error.message)));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const made = await act(event.submitter, () => call("POST", kind.path, read()), "added");
    if (made) { form.reset(); again(); }
  });
  return h("section", {class: "card"}, h("h2", {}, kind.name), list, h("h3", {}, "Add"), form);
}
