import {call, follow, get, segment} from "./api.js";
import {act, confirmed, dialog, facts, field, fill, h, span, state, table, toast, when} from "./dom.js";
import {refresh} from "./refresh.js";

export const id = "nodes";
export const title = "Nodes";
const LOG_LINES = 1000;

export function show(host, hive, signal) {
  const filter = h("input", {type: "search", placeholder: "Filter by name", "aria-label": "Filter by name", oninput: () => draw()});
  const system = h("input", {type: "checkbox", onchange: () => draw()});
  const list = h("div");
  let nodes = [];
  const again = refresh(async () => {
    nodes = (await get(`/hives/${hive}/nodes`)).nodes ?? [];
    draw();
  }, 2000, signal, (error) => fill(list, h("p", {class: "bad"}, error.message)));
  const base = `/hives/${hive}/nodes`;

  host.append(h("section", {class: "card"},
    h("div", {class: "bar"}, h("h2", {}, "Nodes"), filter, h("label", {class: "check"}, system, "system nodes"),
      h("button", {type: "button", class: "primary", onclick: () => spawnDialog(hive, again)}, "Spawn a node")),
    list));

  function draw() {
    const wanted = filter.value.trim().toLowerCase();
    const rows = nodes.filter((one) => one.node_name.toLowerCase().includes(wanted) &&
      (system.checked || !/^(SY|RT)\./.test(one.node_name)));
    if (list.contains(document.activeElement) && document.activeElement.dataset.busy) return;
    const focused = document.activeElement?.dataset?.key;
    fill(list, table([
      ["Name", (one) => h("button", {type: "button", class: "link", "data-key": `open ${one.node_name}`,
        onclick: () => nodeDialog(hive, one, again)}, one.node_name), "name"],
      ["State", (one) => state(one.lifecycle_state ?? (one.status === "active" ? "RUNNING" : one.status))],
      ["Health", (one) => state(one.health_state)],
      ["VPN", (one) => one.vpn_id, "number"],
      ["Connected", (one) => one.connected_at ? when(one.connected_at) : ""],
      ["", (one) => one.managed ? rowActions(one) : h("span", {class: "faint"}, "not managed")],
    ], rows, nodes.length ? "No node fits the filter." : "No node yet. Spawn one from a runtime."));
    if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  function rowActions(one) {
    const button = (word, work, kind) => h("button", {type: "button", class: kind, "data-key": `${word} ${one.node_name}`,
      "aria-label": `${word} ${one.node_name}`, onclick: async (event) => { await work(event.target); again(); }}, word);
    const stopped = ["STOPPED", "FAILED", "PARKED"].includes(one.lifecycle_state);
    return h("div", {class: "row-actions"},
      stopped ? button("Start", (target) => act(target, () => call("POST", `${base}/${segment(one.node_name)}/start`, {}), "started"))
        : button("Restart", (target) => act(target, () => call("POST", `${base}/${segment(one.node_name)}/restart`, {}), "restarted")),
      stopped ? button("Remove", (target) => remove(target, one), "danger")
        : button("Kill", (target) => kill(target, one), "danger"));
  }

  async function kill(target, one) {
    if (!await confirmed(`Kill ${one.node_name}?`, "Its process ends. Its configuration stays; it can be started again.", "Kill")) return;
    await act(target, () => call("DELETE", `${base}/${segment(one.node_name)}`, {}), "killed");
  }
  async function remove(target, one) {
    if (!await confirmed(`Remove ${one.node_name}?`, "Its configuration, state and secrets are deleted for good.", "Remove")) return;
    await act(target, () => call("DELETE", `${base}/${segment(one.node_name)}/instance`, {}), "removed");
  }
}

async function spawnDialog(hive, again) {
  let runtimes = [];
  try {
    runtimes = (await get(`/hives/${hive}/runtimes`)).runtimes ?? [];
  } catch (error) {
    toast(error.message, true);
  }
  dialog("Spawn a node", (form, close) => {
    const name = h("input", {required: true, placeholder: "AI.echo", autofocus: true, autocomplete: "off", spellcheck: "false"});
    const runtime = h("select", {}, h("option", {value: ""}, "from the name"),
      runtimes.map((one) => h("option", {value: one.runtime}, `${one.runtime} ${one.current ?? ""}`)));
    const version = h("input", {placeholder: "current", autocomplete: "off"});
    const tenant = h("input", {placeholder: "tnt:… (the box's default)", autocomplete: "off", spellcheck: "false"});
    const config = h("textarea", {placeholder: "{}", spellcheck: "false"});
    form.append(
      h("div", {class: "grid"}, field("Name", name), field("Runtime", runtime), field("Version", version), field("Tenant", tenant)),
      field("Configuration (JSON object, over the package's template)", config),
      h("p", {class: "actions"}, h("button", {type: "button", onclick: close}, "Cancel"),
        h("button", {type: "submit", class: "primary"}, "Spawn")));
    form.addEventListener("submit", async (event) => {
      const body = {node_name: name.value.trim()};
      if (runtime.value) body.runtime = runtime.value;
      if (version.value.trim()) body.runtime_version = version.value.trim();
      if (tenant.value.trim()) body.tenant_id = tenant.value.trim();
      const parsed = parse(config.value || "{}");
      if (parsed === undefined) return;
      body.config = parsed;
      const made = await act(event.submitter, () => call("POST", `/hives/${hive}/nodes`, body), `${body.node_name} spawned`);
      if (made) { close(); again(); }
    });
  });
}

/** A JSON object from a text field; says what is wrong and gives undefined otherwise. */
function parse(text) {
  try {
    const value = JSON.parse(text);
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return value;
    toast("The configuration must be a JSON object, such as {\"model\": \"small\"}.", true);
  } catch (error) {
    toast(`The configuration is not JSON: ${error.message}`, true);
  }
  return undefined;
}

function nodeDialog(hive, node, again) {
  const path = `/hives/${hive}/nodes/${segment(node.node_name)}`;
  const leaving = new AbortController();
  const box = dialog(node.node_name, (form, close) => {
    const status = h("div", {}, "…");
    const config = h("textarea", {spellcheck: "false", "aria-label": "Configuration"});
    const replace = h("input", {type: "checkbox"});
    const log = h("pre", {class: "log", tabindex: "0", "aria-label": "Log"});
    let stored = {};
    form.append(status,
      ...(node.managed ? [
        h("h3", {}, "Configuration"), config,
        h("div", {class: "bar"}, h("label", {class: "check"}, replace, "replace all of it (else only what differs is sent)"),
          h("button", {type: "button", class: "primary", onclick: (event) => save(event.target)}, "Save")),
        h("h3", {}, "Live log"), log] : []),
      h("p", {class: "actions"}, h("button", {type: "button", onclick: close}, "Close")));
    refresh(async () => fill(status, described((await get(`${path}/status`)).node_status)), 2000, leaving.signal,
      (error) => fill(status, h("p", {class: "bad"}, error.message)));
    if (!node.managed) return;
    get(`${path}/config`).then((answer) => {
      const {_system, ...own} = answer.config;
      stored = own;
      config.value = JSON.stringify(own, null, 2);
    }).catch((error) => toast(error.message, true));
    tail(log, `${path}/logs?tail=200&follow=1`, leaving.signal);

    async function save(button) {
      const wanted = parse(config.value);
      if (wanted === undefined) return;
      const patch = replace.checked ? wanted : changed(stored, wanted);
      const query = replace.checked ? "?replace=1" : "";
      const answer = await act(button, () => call("PUT", `${path}/config${query}`, patch));
      if (answer) {
        stored = wanted;
        toast(`version ${answer.config_version} is stored; the node was ${answer.notify_status === "sent" ? "told" : "not told"}`);
        again();
      }
    }
  });
  box.addEventListener("close", () => leaving.abort());
}

/** Top-level keys of `wanted` that are new or different: PUT merges those. */
function changed(stored, wanted) {
  return Object.fromEntries(Object.entries(wanted).filter(
    ([key, value]) => JSON.stringify(stored[key]) !== JSON.stringify(value)));
}

function described(one) {
  const process = one.process ?? {};
  const up = process.pid && process.started_at ? span((Date.now() - new Date(process.started_at)) / 1000) : "";
  return h("div", {}, h("p", {}, state(one.lifecycle_state), " ", state(one.health_state), " ",
    h("span", {class: "faint"}, one.health_source === "NODE_REPORTED" ? "says the node itself" : "")),
  facts([
    ["runtime", [one.runtime?.name, one.runtime?.resolved_version].filter(Boolean).join(" ")],
    ["process", process.pid ? `${process.pid}, up ${up}` : ""],
    ["restarts", process.restart_count || ""],
    ["last exit", process.pid || process.exit_code === null ? "" : process.exit_code],
    ["config", one.config?.path ? h("code", {}, one.config.path) : ""],
    ["version", one.config?.config_version],
    ["identity", one.identity?.ilk_id], ["tenant", one.identity?.tenant_id],
    ["last error", one.last_error ? JSON.stringify(one.last_error) : ""],
  ]));
}

/** Show a log that grows, at its end unless somebody scrolled up. */
async function tail(log, path, signal) {
  const add = (text) => {
    const atEnd = log.scrollTop + log.clientHeight > log.scrollHeight - 40;
    log.append(document.createTextNode(`${text}\n`));
    while (log.childNodes.length > LOG_LINES) log.firstChild.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
  };
  try {
    await follow(path, (data) => add(data), signal);
    if (!signal.aborted) add("— the log ended —");
  } catch (error) {
    if (!signal.aborted) add(`— ${error.message} —`);
  }
}
