// Shows what the API says, once a second while the page is seen. Every text goes in as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);
const cards = new Map();
const short = (digest) => (digest || "").replace(/^sha256:/, "").slice(0, 12);
const percent = (share) => {
  const value = (share || 0) * 100;
  return (value > 0 && value < 1 ? value.toFixed(1) : Math.round(value * 10) / 10) + "%";
};
const count = (value) => (value || 0).toLocaleString("en");
const when = (text) => (text ? new Date(text).toLocaleString(undefined, { hour12: false }) : "");

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", credentials: "same-origin" });
  if (!answer.ok) {
    const doc = await answer.json().catch(() => ({}));
    throw new Error(doc.problem || `the agent answered ${answer.status}`);
  }
  return answer.json();
}

function mood(rollout) {
  if (!rollout) return "";
  if (rollout.outcome === "promoted") return "good";
  if (rollout.outcome) return "bad";
  return /waiting|asking/.test(rollout.state || "") ? "wait" : "";
}

function stateOf(environment) {
  const rollout = environment.rollout;
  if (rollout) return rollout.steps && rollout.step ? `${rollout.state} · step ${rollout.step} of ${rollout.steps}` : rollout.state;
  if (!environment.stable) return "nothing serves";
  return environment.last && environment.last.outcome ? `serving · last ${environment.last.outcome}` : "serving";
}

function shareOf(environment, cohort) {
  const fleet = environment[cohort];
  if (!fleet) return 0;
  const rollout = environment.rollout;
  if (rollout && rollout.route && cohort in rollout.route) return rollout.route[cohort];
  return (environment.route || {})[fleet.revision] || 0;
}

// A job has no instance between its runs.
function healthCell(environment, fleet) {
  if (environment.run_kind === "job") return ["td", "by schedule", "n"];
  return ["td", `${fleet.healthy ?? "?"} of ${fleet.instances}`, (fleet.healthy ?? fleet.instances) < fleet.instances ? "n bad" : "n"];
}

function row(environment, cohort) {
  const fleet = environment[cohort];
  const requests = ((environment.rollout || environment.last || {}).requests || {})[cohort] || {};
  const line = document.createElement("tr");
  line.className = cohort;
  const cells = [
    ["th", cohort], ["td", short(fleet.revision), "revision"], ["td", percent(shareOf(environment, cohort)), "n"],
    healthCell(environment, fleet),
    ["td", count(requests.total), "n"], ["td", count(requests.errors), requests.errors ? "n bad" : "n"],
  ];
  for (const [tag, text, kind] of cells) {
    const cell = document.createElement(tag);
    if (tag === "th") cell.scope = "row";
    if (kind) cell.className = kind;
    if (tag === "th") cell.dataset.revision = short(fleet.revision);
    if (kind === "revision") cell.title = fleet.revision;
    cell.textContent = text;
    line.append(cell);
  }
  return line;
}

function items(list, sentences) {
  const found = [...list.children].map((node) => node.textContent);
  if (found.join("\n") === sentences.join("\n")) return;
  list.replaceChildren(...sentences.map((sentence) => Object.assign(document.createElement("li"), { textContent: sentence })));
}

// Evidence grows by factors, so it is drawn by its logarithm; the dashed line is what takes the candidate back.
function drawEvidence(figure, rollout) {
  const points = (rollout && rollout.evidence) || [];
  const needed = (rollout && rollout.verdict && rollout.verdict.needed) || 100;
  figure.hidden = points.length < 2;
  if (figure.hidden) return;
  const top = Math.log10(needed);
  const first = points[0][0];
  const span = points[points.length - 1][0] - first || 1;
  const y = (e) => 46 - 40 * Math.min(1.1, Math.max(0, Math.log10(Math.max(e, 1)) / top));
  const line = points.map(([t, e]) => `${((t - first) / span * 300).toFixed(1)},${y(e).toFixed(1)}`).join(" ");
  figure.querySelector("polyline").setAttribute("points", line);
  const last = points[points.length - 1][1];
  setText(figure.querySelector("figcaption"), `Evidence against the candidate: ${last.toPrecision(3)} of ${needed} that take it back`);
}

function metricSentences(rollout) {
  const said = (rollout && rollout.verdict && rollout.verdict.own_metrics) || [];
  return said.map((m) => {
    const text = m.text.replace(`metric ${m.name}: `, "");
    const evidence = m.state === "missing" ? "" : `; evidence ${m.evidence.toPrecision(3)}`;
    const held = m.state === "suspended" ? `; not compared now: ${m.problem}` : "";
    return `${m.name}${m.observe ? " (observed only)" : ""}: ${text}${evidence}${held}`;
  });
}

// The latest runs of a job, newest first, under the one that comes next.
function runSentences(environment) {
  const took = (r) => (r.outcome ? `${r.outcome} after ${r.seconds} s` : `runs for ${r.seconds} s`);
  const why = (r) => (r.outcome && r.outcome !== "done" ? `: ${r.why}` : "");
  const told = (environment.runs || []).slice(-10).reverse().map((r) => `${when(r.slot)} · ${r.cohort} · ${r.instance} · ${took(r)}${why(r)}`);
  return environment.next_run ? [`next run ${when(environment.next_run)}`, ...told] : told;
}

// The picture of `rebake judge explain`, asked for only while it is open, and anew while the rollout goes on.
function showExplained(card, rollout) {
  const details = card.querySelector(".explained");
  details.hidden = !rollout || !rollout.verdict;
  if (details.hidden || !details.open) return;
  const age = rollout.ended ? "ended" : Math.floor(Date.now() / 5000);
  const source = `/v1/rollouts/${encodeURIComponent(rollout.rollout)}/explain.svg?at=${age}`;
  const image = details.querySelector("img");
  if (image.getAttribute("src") !== source) {
    image.src = source;
    image.alt = `The course of rollout ${rollout.rollout}: shares, failures and evidence over time`;
  }
}

function fill(card, environment) {
  const part = (name) => card.querySelector(name);
  const shown = environment.rollout || environment.last;
  setText(part("h2"), `${environment.service} · ${environment.environment}`);
  setText(part(".state"), stateOf(environment));
  part(".state").className = `state ${mood(shown)}`;
  setText(part(".place"), [environment.platform, environment.listen].filter(Boolean).join(" · "));
  setText(part(".reason"), (shown && shown.reason) || "");
  const frozen = (environment.frozen || []).map((f) => `frozen by ${f.by} until ${f.until}: ${f.reason}`);
  items(part(".problems"), frozen.concat(environment.problems || []));
  const stable = shareOf(environment, "stable");
  const candidate = shareOf(environment, "candidate");
  part(".shares .stable").style.width = `${stable * 100}%`;
  part(".shares .candidate").style.width = `${candidate * 100}%`;
  part(".shares").setAttribute("aria-label", `stable ${percent(stable)}, candidate ${percent(candidate)} of the traffic`);
  part("tbody").replaceChildren(...["stable", "candidate"].filter((c) => environment[c]).map((c) => row(environment, c)));
  part(".scroll").hidden = !environment.stable && !environment.candidate;
  items(part(".runs"), runSentences(environment));
  drawEvidence(part(".evidence"), environment.rollout);
  items(part(".metrics"), metricSentences(environment.rollout));
  showExplained(card, shown);
  const mark = shown ? `${shown.rollout}/${shown.outcome}` : "";
  if (card.dataset.mark !== mark) {
    card.dataset.mark = mark;
    showHistory(card, environment).catch(() => { card.dataset.mark = ""; });
  }
}

async function showHistory(card, environment) {
  const path = `/v1/environments/${encodeURIComponent(environment.service)}/${encodeURIComponent(environment.environment)}`;
  const { history } = await ask(`${path}/history?limit=10`);
  const sentence = (r) => `${when(r.started)} · ${r.kind} ${short(r.revision)} · ${r.outcome || r.state} · ${r.reason || ""}`;
  items(card.querySelector(".history"), history.map(sentence));
}

function show(environments) {
  byId("empty").hidden = environments.length > 0;
  const seen = new Set();
  for (const environment of environments) {
    const key = `${environment.service}/${environment.environment}`;
    seen.add(key);
    if (!cards.has(key)) {
      const card = byId("card").content.cloneNode(true).querySelector("article");
      card.dataset.key = key;
      cards.set(key, card);
      byId("environments").append(card);
    }
    fill(cards.get(key), environment);
  }
  for (const [key, card] of cards) {
    if (!seen.has(key)) {
      card.remove();
      cards.delete(key);
    }
  }
}

async function refresh() {
  const link = byId("link");
  try {
    const [status, ledger] = await Promise.all([ask("/v1/status"), ask("/v1/ledger?limit=0")]);
    show(status.environments);
    setText(byId("ledger"), `${count(ledger.head.seq)} · ${short(ledger.head.hash)}`);
    link.className = "";
    setText(link, "live");
  } catch (error) {
    link.className = "lost";
    setText(link, `not live: ${error.message}`);
  }
}

async function main() {
  ask("/v1/agent").then((agent) => setText(byId("agent"), `${agent.version}, pid ${agent.pid}, since ${when(agent.since)}`)).catch(() => {});
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
main();
