import {get} from "./api.js";
import {facts, fill, h, span, state, table} from "./dom.js";
import {refresh} from "./refresh.js";

export const id = "overview";
export const title = "Overview";

export function show(host, hive, signal) {
  const cards = h("div", {class: "cards"});
  const planes = h("section", {class: "card"}, h("h2", {}, "Planes"));
  const hives = h("section", {class: "card"}, h("h2", {}, "Hives"));
  host.append(cards, planes, hives);
  refresh(async () => {
    const [seen, known, stored] = await Promise.all([
      get("/hive/overview"), get("/hives"), get("/config/storage/metrics").catch(() => null)]);
    const counts = seen.nodes ?? {};
    fill(cards,
      card("Hive", facts([["name", seen.hive_id ?? hive], ["role", seen.role], ["version", seen.version],
        ["up", span(seen.uptime_ms / 1000)]])),
      card("Nodes", h("div", {class: "figure"}, counts.connected ?? seen.facts?.nodes ?? "–"),
        facts([["managed", counts.managed], ["running", counts.running], ["parked", counts.parked]])),
      card("Turns", h("div", {class: "figure"}, stored?.metrics?.processed_total ?? "–"),
        facts([["pending", stored?.metrics?.pending], ["oldest", span(stored?.metrics?.oldest_pending_age_s)]])),
      card("Health", (seen.reasons ?? []).length
        ? h("ul", {class: "bad"}, seen.reasons.map((reason) => h("li", {}, reason)))
        : (seen.notices ?? []).length ? null : h("p", {class: "good"}, "Everything that should run, runs."),
      (seen.notices ?? []).length
        ? h("ul", {}, seen.notices.map((notice) => h("li", {}, notice))) : null));
    fill(planes, h("h2", {}, "Planes"), table([
      ["Plane", (one) => one.name, "name"], ["State", (one) => state(one.state)],
      ["Restarts", (one) => one.restarts, "number"], ["Why", (one) => one.why]],
    seen.planes ?? [], "No plane is known."));
    fill(hives, h("h2", {}, "Hives"), table([
      ["Hive", (one) => one.hive_id, "name"], ["State", (one) => state(one.status)],
      ["Address", (one) => one.address], ["", (one) => one.is_local ? "this box" : ""]],
    known.hives ?? [], "No hive is known."));
  }, 3000, signal, (error) => fill(cards, card("Overview", h("p", {class: "bad"}, error.message))));
}

const card = (name, ...content) => h("section", {class: "card"}, h("h2", {}, name), ...content);
