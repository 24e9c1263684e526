// The playground: a chat over the OpenAI API of the gateway that serves this page.
import { Chart } from "./chart.js";
import { serverFigures } from "./metrics.js";
import { streamChat } from "./stream.js";

const $ = (id) => document.getElementById(id);
const POLL_MS = 1000;
const charts = { speed: new Chart($("speed-chart"), "tokens per second"), queue: new Chart($("queue-chart"), "requests"), kv: new Chart($("kv-chart"), "percent of the KV cache") };
let history = [];
let running = null; // the AbortController of the answer that is on its way

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

function say(status, problem = "") {
  $("status").textContent = status;
  $("problem").textContent = problem;
}

async function loadModels() {
  const answer = await fetch("v1/models", { headers: headers() }).catch(() => null);
  const body = await answer?.json().catch(() => null);
  if (!answer?.ok) {
    say("", body?.error?.message ?? "The gateway does not answer.");
    return;
  }
  $("model").replaceChildren(...body.data.map((model) => new Option(model.id, model.id)));
  say("Ready.");
}

function addMessage(role, text) {
  const message = document.createElement("article");
  message.className = `message ${role}`;
  const who = document.createElement("h3");
  who.textContent = role === "user" ? "You" : $("model").value;
  const content = document.createElement("p");
  content.textContent = text;
  message.append(who, content);
  $("log").append(message);
  message.scrollIntoView({ block: "end" });
  return content;
}

function settings() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const system = $("system").value.trim();
  return {
    model: $("model").value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...history],
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
    seed: number("seed"),
    stop: $("stops").value || undefined,
  };
}

class Figures {
  constructor() {
    this.startedMs = performance.now();
    this.firstMs = null;
    this.pieces = 0;
    $("ttft").textContent = $("speed").textContent = $("tokens").textContent = "–";
    charts.speed.clear();
  }
  piece() {
    const now = performance.now();
    if (this.firstMs === null) {
      this.firstMs = now;
      $("ttft").textContent = `${Math.round(now - this.startedMs)} ms`;
    }
    this.pieces += 1;
    this.show(this.pieces, now);
  }
  // Behind the first token, as TPOT is counted: its wait is the time to first token.
  show(tokens, now) {
    $("tokens").textContent = String(tokens);
    const seconds = (now - this.firstMs) / 1000;
    if (tokens < 2 || seconds <= 0) return;
    const speed = (tokens - 1) / seconds;
    $("speed").textContent = speed.toFixed(1);
    charts.speed.add(speed);
  }
}

async function send() {
  const text = $("prompt").value.trim();
  if (!text || running) return;
  $("prompt").value = "";
  const asked = addMessage("user", text);
  history.push({ role: "user", content: text });
  const body = settings();
  const shown = addMessage("assistant", "");
  const figures = new Figures();
  running = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  $("log").setAttribute("aria-busy", "true"); // read out once it is whole
  say("Answering…");
  let problem = "";
  try {
    for await (const event of streamChat(body, headers(), running.signal)) {
      const piece = event.choices?.[0]?.delta?.content;
      if (piece) {
        figures.piece();
        shown.textContent += piece;
        shown.scrollIntoView({ block: "end" });
      }
      if (event.usage && figures.firstMs !== null) figures.show(event.usage.completion_tokens, performance.now());
    }
  } catch (error) {
    if (error.name !== "AbortError") problem = error.message;
  }
  if (shown.textContent) history.push({ role: "assistant", content: shown.textContent });
  else takeBack(asked, shown, text);
  const wasStopped = running.signal.aborted;
  running = null;
  $("send").disabled = false;
  $("stop").disabled = true;
  $("log").removeAttribute("aria-busy");
  say(problem ? "" : wasStopped ? "Stopped." : "The answer is complete.", problem);
  $("prompt").focus();
}

// A question without an answer is no turn of the chat: it goes back to where it can be sent again.
function takeBack(asked, shown, text) {
  history.pop();
  asked.parentElement.remove();
  shown.parentElement.remove();
  $("prompt").value = text;
}

async function poll() {
  if (document.hidden) return;
  const answer = await fetch("metrics", { headers: headers() }).catch(() => null);
  const figures = answer?.ok ? serverFigures(await answer.text()) : null;
  $("server-note").textContent = figures ? "" : "The server's figures cannot be read.";
  if (!figures) return;
  $("running").textContent = String(figures.running);
  $("waiting").textContent = String(figures.waiting);
  $("kv").textContent = `${(100 * figures.kvFraction).toFixed(1)} %`;
  charts.queue.add(figures.running + figures.waiting);
  charts.kv.add(100 * figures.kvFraction);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  running?.abort();
  history = [];
  $("log").replaceChildren();
  $("prompt").focus();
});
$("key").addEventListener("change", loadModels);
await loadModels();
await poll();
setInterval(poll, POLL_MS);
