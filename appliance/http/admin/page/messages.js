import {call, follow, get, segment} from "./api.js";
import {act, field, fill, h, toast} from "./dom.js";

export const id = "messages";
export const title = "Messages";
const KEPT = 300;
const SHOWN = 400;

export function show(host, hive, signal) {
  host.append(sender(hive), tapped(signal));
}

function sender(hive) {
  const names = h("datalist", {id: "node-names"});
  get(`/hives/${hive}/nodes`).then((answer) => fill(names, (answer.nodes ?? []).map(
    (one) => h("option", {value: one.node_name})))).catch(() => {});
  const to = h("input", {required: true, list: "node-names", placeholder: `AI.echo@${hive}`, spellcheck: "false"});
  const kind = h("select", {}, ["user", "system", "command", "query"].map((word) => h("option", {value: word}, word)));
  const verb = h("input", {placeholder: "only for system and command", spellcheck: "false"});
  const payload = h("textarea", {spellcheck: "false", value: JSON.stringify({type: "text", content: "hello"}, null, 2)});
  const form = h("form", {}, names,
    h("div", {class: "grid"}, field("To", to), field("Type", kind), field("Verb (meta.msg)", verb)),
    field("Payload (JSON)", payload),
    h("p", {class: "actions"}, h("button", {type: "submit", class: "primary"}, "Send")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = {msg_type: kind.value};
    if (verb.value.trim()) body.msg = verb.value.trim();
    try {
      body.payload = JSON.parse(payload.value || "{}");
    } catch (error) {
      toast(`The payload is not JSON: ${error.message}`, true);
      return;
    }
    const name = to.value.trim();
    const sent = await act(event.submitter, () => call("POST", `/hives/${hive}/nodes/${segment(name)}/messages`, body));
    if (sent) toast(`sent, trace ${sent.trace_id}`);
  });
  return h("section", {class: "card"}, h("h2", {}, "Send a message"), form);
}

function tapped(signal) {
  const name = h("input", {placeholder: "every node", "aria-label": "Only messages of this node", spellcheck: "false"});
  const system = h("input", {type: "checkbox"});
  const lines = h("pre", {class: "log", tabindex: "0", "aria-label": "Messages"});
  const button = h("button", {type: "button", class: "primary"}, "Start");
  let stop = null;
  const add = (text) => {
    const atEnd = lines.scrollTop + lines.clientHeight > lines.scrollHeight - 40;
    lines.append(document.createTextNode(`${text}\n`));
    while (lines.childNodes.length > KEPT) lines.firstChild.remove();
    if (atEnd) lines.scrollTop = lines.scrollHeight;
  };
  const end = () => { stop?.abort(); stop = null; button.textContent = "Start"; };
  button.addEventListener("click", async () => {
    if (stop) return end();
    stop = new AbortController();
    const mine = stop;
    button.textContent = "Stop";
    const query = name.value.trim() ? `?name=${segment(name.value.trim())}` : "";
    try {
      await follow(`/tap${query}`, (data) => {
        const event = JSON.parse(data);
        if (system.checked || (event.type !== "system" && event.type !== "admin")) add(summary(event));
      }, mine.signal);
      if (!mine.signal.aborted) add("— the box ended the tap —");
    } catch (error) {
      if (!mine.signal.aborted) add(`— ${error.message} —`);
    }
    if (stop === mine) end();
    return undefined;
  });
  signal.addEventListener("abort", end);
  return h("section", {class: "card"},
    h("div", {class: "bar"}, h("h2", {}, "Tap"), name,
      h("label", {class: "check"}, system, "system messages"), button),
    h("p", {class: "faint"}, "What the router does with each message: whence, whither, what became of it, and a short payload."),
    lines);
}

/** One line for one event of the router's tap. */
function summary(event) {
  const time = new Date(event.at_ms).toLocaleTimeString();
  const what = [event.type, event.msg].filter(Boolean).join("/");
  const good = ["delivered", "broadcast", "flooded", "forwarded"].includes(event.outcome);
  const body = event.frame ? JSON.stringify(event.frame.payload) : `${event.size_bytes} bytes`;
  const shown = body.length > SHOWN ? `${body.slice(0, SHOWN)}…` : body;
  return [time, event.from, "→", event.to ?? event.dst ?? "(policy)", what, good ? "" : `[${event.outcome}]`, shown]
    .filter(Boolean).join("  ");
}
