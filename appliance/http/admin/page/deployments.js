import {get} from "./api.js";
import {fill, h, state, table, when} from "./dom.js";
import {refresh} from "./refresh.js";

export const id = "deployments";
export const title = "Deployments";

export function show(host, hive, signal) {
  const history = h("div");
  const drift = h("div");
  const category = h("select", {"aria-label": "Category", onchange: () => again()},
    ["", "runtime", "core", "vendor"].map((word) => h("option", {value: word}, word || "every category")));
  host.append(
    h("section", {class: "card"}, h("div", {class: "bar"}, h("h2", {}, "Deployments"), category), history),
    h("section", {class: "card"}, h("h2", {}, "Drift"), drift));
  const again = refresh(async () => {
    const query = category.value ? `?category=${category.value}` : "";
    const [done, alerts] = await Promise.all([get(`/deployments${query}`), get(`/drift-alerts${query}`)]);
    fill(history, table([
      ["When", (one) => when(one.started_at)], ["Category", (one) => one.category], ["Trigger", (one) => one.trigger],
      ["By", (one) => one.actor], ["Hives", (one) => (one.target_hives ?? []).join(", ")], ["Result", (one) => state(one.result)],
      ["Manifest", (one) => one.manifest_hash ? h("code", {title: one.manifest_hash}, one.manifest_hash.slice(0, 12)) : ""],
    ], done.entries ?? [], "Nothing was deployed yet."));
    fill(drift, table([
      ["When", (one) => when(one.detected_at)], ["Hive", (one) => one.hive_id], ["Category", (one) => one.category],
      ["Severity", (one) => one.severity], ["What", (one) => one.message],
    ], (alerts.entries ?? []).filter((one) => !one.synthetic), "No drift was seen."));
  }, 6000, signal, (error) => fill(history, h("p", {class: "bad"}, error.message)));
}
