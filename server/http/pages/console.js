// The console: reads the server every two seconds and shows what it says.
import { parseMetrics, Plot, quantile, short, sumOf } from "./plots.js";
import { play } from "./playground.js";

const EVERY_MS = 2000;
const PAGE = 100;
const KEY = "lorica-key";
const base = location.pathname.replace(/\/console\/?$/, "");
const $ = (id) => document.getElementById(id);
const admin = "/lorica.v1.AdapterService/";

// --- calls --------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function keyHeader() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function send(path, init) {
  const response = await fetch(base + path, { ...init, cache: "no-store" });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const text = body.message ?? body.error?.message ?? body.error ?? `HTTP ${response.status}`;
  throw new Refused(response.status, text);
}

function post(path, body, signal) {
  return send(path, {
    method: "POST", signal, body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", ...keyHeader() },
  });
}

const call = async (path, body) => (await post(path, body)).json();

// --- small parts --------------------------------------------------------------------------

function cell(text, className = "") {
  const node = document.createElement("td");
  node.textContent = text;
  node.className = className;
  return node;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function button(text, label, act) {
  const node = document.createElement("button");
  node.type = "button";
  node.textContent = text;
  node.setAttribute("aria-label", label);
  node.addEventListener("click", act);
  return node;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = Number(count), unit = 0;
  for (; value >= 1023.5 && unit < units.length - 1; ++unit) value /= 1024;
  return `${short(value)} ${units[unit]}`;
}

function ago(seconds) {
  if (seconds === undefined) return '–';
  if (seconds < 0) return "never";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;
}

function say(text, bad = false) {
  $("said").hidden = false;
  $("said").classList.toggle("bad", bad);
  $("said").textContent = text;
}

// --- load ---------------------------------------------------------------------------------

const plots = {
  requests: new Plot($("plots"), "Requests", "a second", ["ended"]),
  tokens: new Plot($("plots"), "Tokens", "a second", ["prompt", "generated"]),
  first: new Plot($("plots"), "First token", "ms", ["p50", "p95"]),
  each: new Plot($("plots"), "Each token", "ms", ["p50", "p95"]),
  queue: new Plot($("plots"), "Queue", "ms", ["p50", "p95"]),
  running: new Plot($("plots"), "Requests now", "", ["running", "waiting", "loading"]),
};
let before = null;

function showMetrics(series, now) {
  if (before !== null) {
    const seconds = (now - before.now) / 1000;
    const rate = (name) => Math.max(0, (sumOf(series, name) - sumOf(before.series, name)) / seconds);
    const times = (name) => [0.5, 0.95].map((share) => {
      const value = quantile(before.series, series, name, share);
      return value === null ? null : value * 1000;
    });
    plots.requests.push([rate("lorica_requests_total")]);
    plots.tokens.push([rate("lorica_prompt_tokens_total"), rate("lorica_generated_tokens_total")]);
    plots.first.push(times("lorica_time_to_first_token_seconds"));
    plots.each.push(times("lorica_time_per_output_token_seconds"));
    plots.queue.push(times("lorica_queue_seconds"));
    plots.running.push(["lorica_requests_running", "lorica_requests_queued", "lorica_adapters_loading"]
      .map((name) => sumOf(series, name)));
  }
  before = { series, now };
}

let began = { uptime: Infinity, text: "" };  // anew where the server is a new one

function showStatus(status) {
  const state = status.state.replace("SERVING_STATE_", "").toLowerCase();
  const uptime = Number(status.uptime_seconds);
  const text = uptime >= began.uptime ? began.text : new Date(Date.now() - uptime * 1000).toLocaleString();
  began = { uptime, text };
  put($("about"), `${status.model?.name} · ${status.device} · ${state} · version ${status.version} · up since ${text}`);
  const blocks = status.limits?.arena_blocks ?? 1;
  const figures = [
    ["running", status.running], ["queued", status.queued], ["waiting for a fetch", status.waiting],
    ["finished", status.counters?.requests_finished], ["refused", status.counters?.requests_refused],
    ["failed", status.counters?.requests_failed],
    ["arena: KV", `${short(100 * status.kv_blocks / blocks)} %`],
    ["arena: adapters", `${short(100 * status.adapter_blocks / blocks)} %`],
    ["step p50", `${short(status.step_ms_p50)} ms`], ["memory", bytes(status.resident_bytes)],
  ];
  $("figures").replaceChildren(...figures.map(([name, value]) => {
    const box = document.createElement("div");
    const term = document.createElement("dt");
    const figure = document.createElement("dd");
    term.textContent = name;
    figure.textContent = value ?? "–";
    box.append(term, figure);
    return box;
  }));
  const tiers = [["device", status.device_tier], ["host", status.host_tier], ["disk", status.disk_tier]];
  $("tiers").replaceChildren(...tiers.filter(([, tier]) => tier).map(([name, tier]) => {
    const row = document.createElement("tr");
    const filled = cell("");
    const limit = Number(tier.byte_limit);
    if (limit > 0) {
      const meter = document.createElement("meter");
      meter.max = limit;
      meter.value = Number(tier.bytes);
      meter.setAttribute("aria-label", `${name}: ${bytes(tier.bytes)} of ${bytes(limit)}`);
      filled.append(meter, " ");
    }
    filled.append(`${bytes(tier.bytes)}${limit > 0 ? ` of ${bytes(limit)}` : ""}`);
    row.append(cell(name), cell(tier.adapters, "number"), filled, cell(tier.hits, "number"),
      cell(tier.misses, "number"), cell(tier.evictions, "number"));
    return row;
  }));
}

// --- adapters -----------------------------------------------------------------------------

let page = "";
let nextPage = "";

async function act(what, id, body, method) {
  say(`${what} ${id} …`);
  try {
    await call(admin + method, { adapter_id: id, ...body });
    say(`${what} ${id}: done`);
  } catch (error) {
    say(`${what} ${id}: ${error.message}`, true);
  }
  await refresh();
}

async function check(source) {
  say(`checking ${source} …`);
  try {
    const report = await call(admin + "CheckAdapter", { source });
    const lines = [report.servable ? `${source} can be served` : `${source} cannot be served: ${report.reason}`];
    if (report.servable) {
      lines.push(`${report.blocks} blocks of ${bytes(report.block_bytes)}, exactly ${bytes(report.exact_tile_bytes)}`);
    }
    for (const module of report.modules) {
      const rank = module.rank_min === module.rank_max ? module.rank_max : `${module.rank_min} to ${module.rank_max}`;
      lines.push(`${module.name}: ${module.layers} layers, rank ${rank}`);
    }
    lines.push(...report.warnings.map((warning) => `warning: ${warning}`));
    say(lines.join("\n"), !report.servable);
  } catch (error) {
    say(`checking ${source}: ${error.message}`, true);
  }
}

const COLUMNS = ["name", "", "", "number", "number", "number", "number", "number", "number", "number"];

// A row keeps its nodes for as long as it is shown: whoever has the focus there, selects something
// or is in the middle of a click is not disturbed by the next reading.
class AdapterRow {
  constructor(id) {
    this.id = id;
    this.node = document.createElement("tr");
    this.node.dataset.id = id;
    this.cells = COLUMNS.map((className) => cell("", className));
    this.name = document.createElement("span");
    this.fault = document.createElement("small");
    this.cells[0].append(this.name, this.fault);
    this.tier = document.createElement("span");
    this.cells[1].append(this.tier);
    this.pin = button("", "", () => (this.pinned ? act("Unpin", id, {}, "UnpinAdapter") : act("Pin", id, {}, "PinAdapter")));
    const does = cell("", "do");
    does.append(
      button("Load", `Load ${id}`, () => act("Load", id, {}, "LoadAdapter")), this.pin,
      button("Evict", `Evict ${id}`, () => act("Evict", id, { down_to: "TIER_SOURCE" }, "EvictAdapter")),
      button("Check", `Check ${id}`, () => check(id)));
    this.node.append(...this.cells, does);
  }

  show(adapter) {
    const failed = adapter.state === "ADAPTER_STATE_FAILED";
    const tier = adapter.tier.replace("TIER_", "").toLowerCase();
    put(this.name, adapter.alias_of ? `${this.id} → ${adapter.alias_of}` : this.id);
    put(this.fault, failed ? adapter.error : "");
    this.tier.className = `tier ${failed ? "failed" : tier}`;
    put(this.tier, failed ? "failed" : adapter.state === "ADAPTER_STATE_LOADING" ? "loading" : tier);
    this.pinned = adapter.pinned !== "TIER_UNSPECIFIED";
    put(this.pin, this.pinned ? "Unpin" : "Pin");
    this.pin.setAttribute("aria-label", `${this.pin.textContent} ${this.id}`);
    const known = adapter.rank_max > 0;
    const rest = [
      this.pinned ? adapter.pinned.replace('TIER_', '').toLowerCase() : '',
      known ? adapter.rank_max : '–',
      known ? bytes(adapter.device_bytes) : '–',
      adapter.hit_count ?? '–',
      adapter.load_count ?? '–',
      Number(adapter.load_count) > 0 ? `${short(adapter.last_load_ms)} ms` : '–',
      adapter.lease_count ?? '–',
      ago(adapter.last_used_seconds_ago),
    ];
    rest.forEach((text, i) => put(this.cells[i + 2], `${text}`));
  }
}

let rows = new Map();

function showAdapters(list) {
  const shown = list.adapters.map((adapter) => {
    const row = rows.get(adapter.adapter_id) ?? new AdapterRow(adapter.adapter_id);
    row.show(adapter);
    return row;
  });
  rows = new Map(shown.map((row) => [row.id, row]));
  const body = $("rows");
  if (shown.length !== body.rows.length || shown.some((row, i) => row.node !== body.rows[i])) {
    const focused = document.activeElement;
    body.replaceChildren(...shown.map((row) => row.node));
    if (body.contains(focused)) focused.focus();
  }
  const prefix = $("filter").value;
  $("none").hidden = shown.length > 0;
  put($("none"), prefix ? `No adapter's name begins with ${prefix}`
    : "No adapters yet. Register one above, or put its folder into the server's folder of adapters.");
  nextPage = list.next_page_token;
  $("more").hidden = nextPage === "";
  $("first").hidden = page === "";
  $("known").replaceChildren(...list.adapters.map((adapter) => new Option(adapter.adapter_id)));
}

// --- the clock ----------------------------------------------------------------------------

let refreshing = false;
let asking = false;

async function refresh() {
  if (refreshing || document.hidden) return;
  refreshing = true;
  try {
    const [status, list, metrics] = await Promise.all([
      call("/lorica.v1.ServerService/GetStatus", {}),
      call(admin + "ListAdapters", { prefix: $("filter").value, page_size: PAGE, page_token: page }),
      send("/metrics", { headers: keyHeader() }).then((response) => response.text()),
    ]);
    showStatus(status);
    showAdapters(list);
    showMetrics(parseMetrics(metrics), performance.now());
    $("trouble").hidden = true;
  } catch (error) {
    $("trouble").hidden = false;
    $("trouble").textContent = error instanceof Refused ? error.message : "The server does not answer.";
    if (error.status === 401 && !asking) askForKey();
  } finally {
    refreshing = false;
  }
}

function askForKey() {
  asking = true;
  $("key-text").value = "";
  $("key-dialog").showModal();
}

$("key-dialog").addEventListener("close", () => {
  const choice = $("key-dialog").returnValue;
  if (choice === "use" && $("key-text").value) sessionStorage.setItem(KEY, $("key-text").value);
  if (choice === "forget") sessionStorage.removeItem(KEY);
  $("key-text").value = "";
  // Whoever closed it without a key is not asked again at once.
  asking = choice !== "use";
  refresh();
});

// --- playground ---------------------------------------------------------------------------

let running = null;

async function runPrompt() {
  if (running !== null) return;
  const names = [...new Set($("play-adapters").value.split(",").map((name) => name.trim()).filter((name) => name))];
  const models = names.map((name) => ({ name, model: name }));
  if ($("with-base").checked || models.length === 0) models.push({ name: "base model", model: "" });
  running = new AbortController();
  $("run").disabled = true;
  $("stop").disabled = false;
  await play($("answers"), post, models, {
    prompt: $("prompt").value, chat: $("as-chat").checked,
    tokens: Number($("play-tokens").value), temperature: Number($("play-temperature").value),
  }, running.signal);
  running = null;
  $("run").disabled = false;
  $("stop").disabled = true;
  refresh();
}

const stopPrompt = () => running?.abort();

// --- what people do -----------------------------------------------------------------------

$("register").addEventListener("submit", (event) => {
  event.preventDefault();
  act("Register", $("register-name").value.trim(),
    { source: $("register-source").value.trim(), replace: $("register-replace").checked }, "RegisterAdapter");
});
$("check").addEventListener("click", () => {
  const source = $("register-source").value.trim() || $("register-name").value.trim();
  source ? check(source) : $("register-name").reportValidity();
});
$("filter").addEventListener("input", () => {
  page = "";
  refresh();
});
$("more").addEventListener("click", () => {
  page = nextPage;
  refresh();
});
$("first").addEventListener("click", () => {
  page = "";
  refresh();
});
$("play").addEventListener("submit", (event) => {
  event.preventDefault();
  runPrompt();
});
$("stop").addEventListener("click", stopPrompt);
$("key").addEventListener("click", askForKey);
$("help").addEventListener("click", () => $("help-dialog").showModal());
$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.setItem("lorica-theme", document.documentElement.dataset.theme = dark ? "light" : "dark");
});
const theme = localStorage.getItem("lorica-theme");
if (theme) document.documentElement.dataset.theme = theme;
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) return stopPrompt();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && $("play").reportValidity()) return runPrompt();
  if (event.target.closest("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  const jump = { "/": "filter", p: "prompt" }[event.key];
  if (jump) {
    event.preventDefault();
    $(jump).focus();
  }
  if (event.key === "?") $("help-dialog").showModal();
});
document.addEventListener("visibilitychange", refresh);
refresh();
setInterval(refresh, EVERY_MS);
