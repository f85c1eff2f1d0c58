// The frame: sections, health, token, and which view is shown. A view is {id, title, show(host, hive, signal)};
// a new panel is one module and one line in VIEWS.

import {get, health, onToken, setToken} from "./api.js";
import {fill, h} from "./dom.js";
import * as deployments from "./deployments.js";
import * as messages from "./messages.js";
import * as nodes from "./nodes.js";
import * as overview from "./overview.js";
import * as routes from "./routes.js";
import * as runtimes from "./runtimes.js";

const VIEWS = [overview, nodes, runtimes, routes, messages, deployments];
const HEALTH_MS = 4000;
const byId = (id) => document.getElementById(id);
let hive = "motherbee";
let leaving = new AbortController();

function showView() {
  const wanted = location.hash.slice(1).split("/")[0];
  const view = VIEWS.find((one) => one.id === wanted) ?? VIEWS[0];
  leaving.abort();
  leaving = new AbortController();
  for (const link of byId("nav").children) {
    if (link.hash === `#${view.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.title} · ${hive} · Fluxbee Edge`;
  const host = h("div");
  fill(byId("view"), host);
  view.show(host, hive, leaving.signal);
}

async function showHealth() {
  let well = false;
  let reasons;
  try {
    ({well, reasons} = await health());
  } catch (error) {
    reasons = [error.message];
  }
  const badge = byId("health");
  badge.textContent = well ? "well" : "needs attention";
  badge.className = `pill ${well ? "good" : "bad"}`;
  byId("notice").hidden = reasons.length === 0;
  byId("notice").textContent = reasons.join(" · ");
  setTimeout(whenSeen(showHealth), HEALTH_MS);
}

/** Put off until the tab is looked at: an unseen page costs the box nothing. */
function whenSeen(work) {
  return () => {
    if (document.visibilityState === "visible") work();
    else document.addEventListener("visibilitychange", work, {once: true});
  };
}

function tokenDialog() {
  const box = byId("token-dialog");
  if (box.open) return Promise.resolve(false);
  byId("token-button").hidden = false;
  return new Promise((resolve) => {
    box.addEventListener("close", () => {
      const token = byId("token-input").value.trim();
      if (token && box.returnValue === "ok") setToken(token);
      byId("token-input").value = "";
      resolve(Boolean(token));
    }, {once: true});
    box.showModal();
  });
}

async function start() {
  onToken(tokenDialog);
  byId("token-button").addEventListener("click", async () => { if (await tokenDialog()) showView(); });
  fill(byId("nav"), VIEWS.map((view) => h("a", {href: `#${view.id}`}, view.title)));
  window.addEventListener("hashchange", showView);
  showHealth();
  try {
    hive = (await get("/hive/status")).hive_id ?? hive;
  } catch { /* the badge says what is wrong; the views show it again */ }
  byId("hive-name").textContent = hive;
  showView();
}

start();
