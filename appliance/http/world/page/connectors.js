// Sources of events: tokens for the built-in ones, pollers of anything that speaks JSON.

import {call} from "./worldapi.js";
import {act, confirmed, dialog, field, fill, h, state, table, toast} from "./dom.js";

const EVERY_MS = 30000;
const BASE = "/api/connector-manager/connectors";

/** Keep the list in `host` up to date; `adding` opens the form for a new source. */
export function showConnectors(host, adding) {
  const draw = async () => {
    try {
      const [sources, known] = await Promise.all([call("GET", BASE), call("GET", "/api/connectors").catch(() => null)]);
      const stored = new Map((known?.connectors ?? []).map((one) => [one.name, one.status]));
      const builtin = sources.filter((one) => one.type === "builtin");
      for (const [name, status] of stored) if (!builtin.some((one) => one.name === name)) builtin.push({name, type: "builtin", status});
      const rows = [...sources.filter((one) => one.type !== "builtin"), ...builtin];
      fill(host, table([
        ["Source", (one) => one.name, "name"], ["Kind", (one) => one.type],
        ["State", (one) => state(stored.get(one.name) === "not_configured" && one.type === "builtin" ? "not connected" : one.status)], ["", (one) => one.last_error ? h("span", {class: "bad"}, one.last_error) : ""],
        ["", (one) => h("div", {class: "row-actions"}, buttons(one, stored, draw))],
      ], rows, "No source yet."));
    } catch (error) {
      fill(host, h("p", {class: "bad"}, error.message));
    }
  };
  adding.addEventListener("click", () => addDialog(draw));
  draw();
  setInterval(() => { if (document.visibilityState === "visible") draw(); }, EVERY_MS);
}

function buttons(one, stored, again) {
  const button = (word, work, kind) => h("button", {type: "button", class: kind, "aria-label": `${word} ${one.name}`,
    onclick: (event) => work(event.target)}, word);
  if (one.type === "builtin") {
    if (!stored.has(one.name)) return [];
    const path = `/api/connectors/${encodeURIComponent(one.name)}/token`;
    return stored.get(one.name) === "configured"
      ? button("Disconnect", async (target) => { await act(target, () => call("DELETE", path), "disconnected"); again(); }, "danger")
      : button("Connect", () => tokenDialog(one.name, path, again));
  }
  const path = `${BASE}/${one.type}/${encodeURIComponent(one.source_id)}`;
  return [
    one.type === "named" ? button("Sync now", (target) => act(target, () => call("POST", `${path}/sync`), "started")) : null,
    button("Remove", async (target) => {
      if (!await confirmed(`Remove ${one.name}?`, "It is no longer asked. What it published stays.", "Remove")) return;
      await act(target, () => call("DELETE", path), "removed");
      again();
    }, "danger")];
}

function tokenDialog(name, path, again) {
  dialog(`Connect ${name}`, (form, close) => {
    const input = h("input", {type: "password", required: true, autocomplete: "off", autofocus: true});
    form.append(h("p", {}, "A personal access token. It is stored encrypted on this box and never shown again."), field("Token", input),
      h("p", {class: "actions"}, login(name, close, again), h("button", {type: "button", onclick: close}, "Cancel"),
        h("button", {type: "submit", class: "primary"}, "Connect")));
    form.addEventListener("submit", async (event) => {
      if (await act(event.submitter, () => call("POST", path, {token: input.value.trim()}), "connected")) { close(); again(); }
    });
  });
}

// A login happens in a window of its own; its link works once. The list shows the result when this page is looked at again.
function login(name, close, again) {
  return h("button", {type: "button", class: "quiet", onclick: async (event) => {
    const link = await act(event.target, () => call("POST", `/api/connectors/${encodeURIComponent(name)}/oauth/link`));
    if (!link) return;
    window.addEventListener("focus", again, {once: true});
    event.target.replaceWith(h("a", {href: link.url, target: "_blank", rel: "noopener", onclick: close}, `Continue at ${name}`));
  }}, "Log in instead");
}

function addDialog(again) {
  dialog("Add a source", (form, close) => {
    const name = h("input", {required: true, placeholder: "Line 2 meter", autofocus: true});
    const url = h("input", {required: true, type: "url", placeholder: "address of a JSON document", spellcheck: "false"});
    const space = h("input", {required: true, placeholder: "plant", spellcheck: "false"});
    const key = h("input", {required: true, placeholder: "meter-2", spellcheck: "false"});
    const every = h("input", {required: true, type: "number", min: 1, value: 30});
    const token = h("input", {type: "password", autocomplete: "off", placeholder: "optional bearer token"});
    const picks = h("input", {placeholder: "kwh = total.kwh, volts = phases[0].u", spellcheck: "false"});
    form.append(h("div", {class: "grid"}, field("Name", name), field("Address", url), field("Namespace", space), field("Entity", key),
      field("Every (seconds)", every), field("Token", token)), field("Values (all of the document when empty)", picks),
    h("p", {class: "actions"}, h("button", {type: "button", onclick: close}, "Cancel"), h("button", {type: "submit", class: "primary"}, "Add")));
    form.addEventListener("submit", async (event) => {
      const body = {name: name.value, url: url.value, namespace: space.value, entity_key: key.value,
        poll_interval_secs: Number(every.value), auth_type: token.value ? "bearer" : "none", token: token.value || null};
      const mapping = picks.value.split(",").map((one) => one.split("=")).filter(([name]) => name.trim());
      if (mapping.length) body.mapping = Object.fromEntries(mapping.map(([name, ...path]) => [name.trim(), path.join("=").trim()]));
      const made = await act(event.submitter, () => call("POST", `${BASE}/generic`, body));
      if (made) { toast(`${name.value} is asked every ${every.value} s`); close(); again(); }
    });
  });
}
