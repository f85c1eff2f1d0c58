// The chat page: one WebSocket, one session, everything shown as text.
//
// The server keeps the conversation; the page keeps the session's id for as long as the tab lives and what it could
// not send yet. After a break it says which line it has, and gets what it missed.

const KEY = "fluxbee.webchat.session";
const MAX_UNSENT = 20;
const MAX_PAUSE_MS = 10_000;

const at = (id) => document.getElementById(id);
const lines = at("lines");
const scroll = at("scroll");
const field = at("text");

let socket = null;
let pause = 500;
let timer = 0;
let last = 0;
let maxChars = 8000;
const unsent = new Map(); // id -> text, in order

function connect() {
  clearTimeout(timer);
  state("connecting", "connecting");
  const mine = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/chat`);
  socket = mine;
  mine.onopen = () => mine.send(JSON.stringify({ type: "hello", session: sessionStorage.getItem(KEY), after: last }));
  mine.onmessage = (event) => { if (socket === mine) receive(JSON.parse(event.data)); };
  mine.onclose = () => { if (socket === mine) comeBack(); };
}

function comeBack() {
  socket = null;
  waiting(0);
  state("away", "reconnecting");
  timer = setTimeout(connect, pause * (0.75 + Math.random() / 2));
  pause = Math.min(pause * 2, MAX_PAUSE_MS);
}

function receive(event) {
  if (event.type === "welcome") {
    welcome(event);
  } else if (event.type === "message") {
    show(event);
  } else if (event.type === "waiting") {
    waiting(event.count);
  }
}

function welcome(event) {
  if (event.last < last) last = 0; // the node has restarted and counts anew; what is shown stays
  sessionStorage.setItem(KEY, event.session);
  maxChars = event.max_chars;
  field.maxLength = maxChars;
  pause = 500;
  document.title = event.title;
  at("partner").textContent = event.partner ? `with ${event.partner}` : "";
  state("connected", "connected");
  event.messages.forEach(show);
  for (const [id, text] of unsent) sendNow(id, text);
}

function show(entry) {
  if (entry.seq <= last) return;
  last = entry.seq;
  if (entry.id) {
    unsent.delete(entry.id);
    lines.querySelector(`li.unsent[data-id="${CSS.escape(entry.id)}"]`)?.remove();
  }
  const line = draw(entry.by, entry.text, entry.by === "you" ? "You" : entry.name, entry.at_ms);
  const firstUnsent = lines.querySelector("li.unsent");
  lines.insertBefore(line, firstUnsent);
  down();
}

function draw(by, text, name, atMs) {
  const line = document.createElement("li");
  line.dataset.by = by;
  if (by !== "notice") {
    const who = document.createElement("p");
    who.className = "who";
    const time = new Date(atMs).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    who.textContent = `${name || "Node"} · ${time}`;
    line.append(who);
  }
  const said = document.createElement("div");
  said.className = "said";
  said.textContent = text; // never HTML
  line.append(said);
  at("empty").hidden = true;
  return line;
}

function say(text) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (n) => n.toString(16).padStart(2, "0")).join("");
  unsent.set(id, text);
  const line = draw("you", text, "You", Date.now());
  line.classList.add("unsent");
  line.dataset.id = id;
  lines.append(line);
  down();
  sendNow(id, text);
}

function sendNow(id, text) {
  if (socket?.readyState === WebSocket.OPEN && at("state").dataset.state === "connected") {
    socket.send(JSON.stringify({ type: "say", id, text }));
  }
}

function waiting(count) {
  at("waiting").hidden = count === 0;
  if (count) down();
}

function state(word, text) {
  at("state").dataset.state = word;
  at("state").textContent = text;
}

function down() {
  scroll.scrollTop = scroll.scrollHeight;
}

function grow() {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value.trim().slice(0, maxChars);
  if (!text || unsent.size >= MAX_UNSENT) return;
  field.value = "";
  grow();
  say(text);
  field.focus();
});

field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});

field.addEventListener("input", grow);

at("fresh").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  unsent.clear();
  lines.replaceChildren();
  last = 0;
  at("empty").hidden = false;
  const old = socket;
  socket = null;
  old?.close();
  pause = 500;
  connect();
  field.focus();
});

addEventListener("online", () => { if (!socket) connect(); });
connect();
