import {call, get, segment} from "./api.js";
import {act, confirmed, dialog, facts, fill, h, pill, table} from "./dom.js";
import {refresh} from "./refresh.js";

export const id = "runtimes";
export const title = "Runtimes";

export function show(host, hive, signal) {
  const list = h("div");
  host.append(h("section", {class: "card"}, h("div", {class: "bar"}, h("h2", {}, "Runtimes")), list,
    h("p", {class: "faint"}, "Publish one with ", h("code", {}, "fluxbee-publish <folder> --deploy " + hive), ".")));
  const again = refresh(async () => {
    const answer = await get(`/hives/${hive}/runtimes`).catch((error) => {
      if (error.code === "RUNTIME_MANIFEST_MISSING") return {runtimes: []};
      throw error;
    });
    fill(list, table([
      ["Runtime", (one) => h("button", {type: "button", class: "link", onclick: () => detail(hive, one.runtime, again)}, one.runtime), "name"],
      ["Type", (one) => one.type], ["On top of", (one) => one.runtime_base],
      ["Current", (one) => one.current], ["Versions", (one) => (one.available ?? []).join(", ")],
      ["Ready", (one) => ready(one)],
    ], answer.runtimes ?? [], "Nothing is published yet."));
  }, 5000, signal, (error) => fill(list, h("p", {class: "bad"}, error.message)));
}

function ready(one) {
  const current = one.readiness?.[one.current];
  if (!current) return "";
  const fine = current.runtime_present && current.start_sh_executable && current.base_runtime_ready;
  return fine ? pill("ready", "good") : pill("not ready", "bad");
}

async function detail(hive, name, again) {
  const base = `/hives/${hive}/runtimes/${segment(name)}`;
  dialog(name, async (form, close) => {
    const host = h("div", {}, "…");
    form.append(host, h("p", {class: "actions"}, h("button", {type: "button", onclick: close}, "Close")));
    const draw = async () => {
      const answer = await get(base);
      const {runtime, materialization, usage} = answer;
      fill(host, facts([["type", runtime.type], ["on top of", runtime.runtime_base], ["current", runtime.current]]),
        table([
          ["Version", (version) => version, "name"],
          ["On disk", (version) => {
            const one = materialization.versions?.[version];
            return one?.materialized ? pill("complete", "good") : pill(one?.blocking_reason ?? "missing", "bad");
          }],
          ["", (version) => version === runtime.current ? h("span", {class: "faint"}, "current")
            : h("button", {type: "button", class: "danger", onclick: async (event) => {
              if (!await confirmed(`Remove ${name} ${version}?`, "The files of this version are deleted.", "Remove")) return;
              await act(event.target, () => call("DELETE", `${base}/versions/${segment(version)}`), "removed");
              await draw();
              again();
            }}, "Remove")],
        ], runtime.available ?? [], "No version."),
        h("h3", {}, "In use by"),
        table([["Node", (one) => one.node_name, "name"], ["Version", (one) => one.runtime_version],
          ["State", (one) => one.lifecycle]], usage?.running_nodes ?? [], "No running node."));
    };
    try {
      await draw();
    } catch (error) {
      fill(host, h("p", {class: "bad"}, error.message));
    }
  });
}
