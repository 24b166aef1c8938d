"use strict";
// Shows what the block of data says (page_data.py tells what stands where). All of it is put in as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const percent = (p) => (p === null ? "–" : (v => (v >= 10 ? v.toFixed(1) : v >= 0.1 ? v.toFixed(2) : v > 0 ? "<0.1" : "0"))(100 * p / data.scale) + "%");
const number = (v, digits = 3) => (v === null || v === undefined ? "–" : v.toFixed(digits));
const word = (i) => (i < 0 ? "–" : data.words[i][0]);
const spaced = (text) => text.replaceAll("\n", "⏎\n").replaceAll("\t", "⇥\t");
const few = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;

function make(tag, kind, ...inside) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.append(...inside);
  return made;
}

// --- colours -------------------------------------------------------------------------------------------------------
const level = (value, steps) => 1 + steps.filter((step) => Math.abs(value) >= step).length;
const shade = (value, steps) => (value === null || Math.abs(value) < 0.05 ? "" : (value < 0 ? "g" : "b") + level(value, steps));
const difference = (nats, less, from) => (nats[less] === null || nats[from] === null ? null : nats[less] - nats[from]);
const COLOURS = {
  "who counts most": (winner) => (winner < 0 ? "none" : "s" + (winner % 6)),
  "targets against before": (winner, nats) => shade(difference(nats, 1, 0), [0.5, 1.5, 3]),
  "cost under the targets": (winner, nats) => shade(nats[1], [1, 3, 6]),
  "after against before": (winner, nats) => shade(difference(nats, 2, 0), [0.25, 0.75, 1.5]),
};
const KEYS = {
  "targets against before": "likelier under the targets than to the student before|less likely",
  "after against before": "likelier to the student after training than before|less likely",
};
let colour = "who counts most";

// --- one document --------------------------------------------------------------------------------------------------
let shown = data.documents[0];
let chosen = 0;

function open(index) {
  shown = data.documents[index];
  chosen = shown.at;
  const [domain, split, shard, chunks, tokens, begin] = shown.about;
  at("name").textContent = shown.name;
  const part = shown.tokens.length < tokens ? `, of which ${begin.toLocaleString("en")} to ${(begin + shown.tokens.length - 1).toLocaleString("en")} are here` : "";
  at("about").textContent = `${domain} · ${split} · shard ${shard} · ${few(chunks, "chunk")} · ${few(tokens, "token")}${part}` + (shown.note ? ` · ${shown.note}` : "");
  at("cautions").replaceChildren(...(shown.cautions.length ? [make("div", "warnings", ...shown.cautions.map((text) => make("p", "", text)))] : []));
  at("scores").replaceChildren(...data.labels.map((label, s) => make("span", "", make("i", `swatch s${s % 6}`), make("b", "", label),
    ` ${number(shown.scores[s])} ${data.unit} · counts ${number(100 * shown.weights[s], 1)}%${label === data.target ? " · the target itself" : ""}`)));
  for (const [i, button] of [...document.querySelectorAll("#documents button")].entries()) button.setAttribute("aria-current", String(i === index));
  at("tokens").replaceChildren(...shown.tokens.map(([text, ofText], i) => {
    const token = make("span", ofText ? "" : "apart", spaced(text));
    token.id = `t${i}`;
    token.setAttribute("role", "option");
    token.setAttribute("aria-selected", "false");
    return token;
  }));
  paint();
  choose(chosen, false);
}

function paint() {
  shown.tokens.forEach(([, ofText, winner, nats], i) => {
    at(`t${i}`).className = [ofText ? "" : "apart", nats === null ? "" : COLOURS[colour](winner, nats)].join(" ").trim();
  });
  const swatch = (kind, text) => make("span", "", make("i", "swatch " + kind), text);
  if (KEYS[colour]) at("key").replaceChildren(...KEYS[colour].split("|").map((text, i) => swatch(i ? "b3" : "g3", text)));
  else if (colour === "who counts most") at("key").replaceChildren(...data.labels.map((label, s) => swatch(`s${s % 6}`, label)), swatch("none", "nobody"));
  else at("key").replaceChildren(swatch("b1", "little"), swatch("b4", "6 nats and more"));
}

function choose(i, scroll = true) {
  const box = at("tokens"), before = at(`t${chosen}`);
  if (before) before.setAttribute("aria-selected", "false");
  chosen = Math.min(Math.max(i, 0), shown.tokens.length - 1);
  const token = at(`t${chosen}`);
  token.setAttribute("aria-selected", "true");
  box.setAttribute("aria-activedescendant", token.id);
  const top = token.offsetTop - box.clientHeight / 2;
  if (!scroll || token.offsetTop < box.scrollTop + 10 || token.offsetTop + token.offsetHeight > box.scrollTop + box.clientHeight - 10) box.scrollTop = top;
  explain(chosen);
}

// --- one position --------------------------------------------------------------------------------------------------
function rows(kept, gold, more) {
  const found = [];
  for (let i = 0; i < kept.length; i += 2) {
    const bar = make("div", "bar"), cell = make("td", "t", make("bdi", "", word(kept[i])), bar);
    bar.style.width = `${100 * Math.min(1, kept[i + 1] / data.scale)}%`;
    found.push(make("tr", kept[i] === gold ? "gold" : "", cell, make("td", "n", percent(kept[i + 1]))));
  }
  if (more) found.push(make("tr", "", make("td", "", make("small", "", `${more} more`)), make("td", "n")));
  return found;
}

function list(title, under, kept, gold, more) {
  const table = make("table", "", make("caption", "", title, make("small", "", under)), make("tbody", "", ...rows(kept, gold, more)));
  return make("div", "", table);
}

const cost = (nats, p) => (nats === null ? (p === null ? "the true token: not kept" : `the true token: ${percent(p)}`) : `the true token costs ${number(nats, 2)} nats`);

function prediction(title, found, gold) {
  return found ? list(title, `${cost(found[4], found[3])}, rank ${found[5] >= 32 ? "32 or later" : found[5] + 1}`, found[0], gold, found[1]) : make("div", "", make("b", "", title), make("p", "hint", "not known"));
}

function source(found, s, gold) {
  const [served, whyNot, weight, share, score, nats, aligned, position, read, next, lies, kept, more, lost] = found;
  const box = make("div", "source"), counts = served ? `counts ${number(100 * share, 1)}%` : `weight ${number(100 * weight, 1)}%, not served`;
  box.append(make("h3", "", make("i", `swatch s${s % 6}`), data.labels[s], make("small", "", ` · ${counts} · ${number(score)} ${data.unit}` + (nats === null ? "" : ` · the true token costs ${number(nats, 2)} nats`))));
  if (whyNot >= 0) box.append(make("p", "", `Not served: ${word(whyNot)}.`));
  if (data.labels[s] === data.target && served) {
    box.append(make("p", "", "This is the student itself: what it predicts is above, as it was before training."));
    return box;
  }
  if (position !== null) {
    box.append(make("p", "", "Has read ", make("span", "t", make("bdi", "", "…" + read.map(word).join("·"))), "; its next token is ", make("b", "t", make("bdi", "", word(next))), lies < 0 ? "." : ` (${data.lies[lies]}).`));
    const body = kept.map(([token, p, given, others]) => {
      const becomes = Array.isArray(given) ? given : [given, p], cell = make("td", "t becomes", becomes.length ? "→ " : make("small", "", "nothing")), [how, distance, times] = data.maps[s][token];
      for (let i = 0; i < becomes.length; i += 2) cell.append(make("span", "pair", make("bdi", "", word(becomes[i])), make("small", "", ` ${percent(becomes[i + 1])}`), i + 2 < becomes.length ? "," : ""), " ");
      if (others) cell.append(make("small", "", `and ${others} more`));
      const found = data.hows[how].replaceAll("_", " ") + (data.hows[how] === "distance" ? ` ${distance}` : "") + (times === null ? "" : `, ${times.toLocaleString("en", { maximumFractionDigits: 0 })}×`);
      return make("tr", "", make("td", "t", make("bdi", "", word(token))), make("td", "n", percent(p)), cell, make("td", "by", make("small", "", found)));
    });
    if (more) body.push(make("tr", "", make("td", "", make("small", "", `${more} more`)), make("td"), make("td"), make("td")));
    const head = make("thead", "", make("tr", "", ...["its token", "p", "becomes", "by"].map((text, i) => { const th = make("th", ["", "n", "becomes", ""][i], text); th.scope = "col"; return th; })));
    const caption = make("caption", "", "Its own tokens", make("small", "", `each with what it becomes in the tokens of ${data.target}`));
    box.append(make("div", "scroll", make("table", "", caption, head, make("tbody", "", ...body))));
    if (lost) {
      const stack = make("div", "stack", ...lost.map((p) => { const part = make("i"); part.style.width = `${100 * p / data.scale}%`; return part; }));
      stack.setAttribute("aria-hidden", "true");
      box.append(stack, make("p", "hint", `Of its probability ${percent(lost[0])} is kept; ${percent(lost[1])} was not captured, ${percent(lost[2])} has no target token, ${percent(lost[3])} was too little to keep.`));
    }
  }
  if (served) box.append(make("div", "sum", list("Added up", `its prediction in the tokens of ${data.target}: ${percent(aligned[2])} kept`, aligned[0], gold, aligned[1])));
  return box;
}

function explain(i) {
  const found = shown.positions[i], more = at("more");
  const [token, chunk, bytes, why, fused, before, after, sources, pairs] = found;
  const place = `token ${(shown.about[5] + i).toLocaleString("en")}` + (bytes ? `, bytes ${bytes[0].toLocaleString("en")} to ${bytes[1].toLocaleString("en")}` : "") + `, chunk ${chunk}`;
  at("said").replaceChildren(make("span", "t", make("bdi", "", word(token))), make("small", "", ` · ${place}`));
  const text = shown.tokens.slice(Math.max(0, i - 24), i).map((t) => t[0]).join("");
  more.replaceChildren(make("p", "read", "…", spaced(text), make("b", "", spaced(shown.tokens[i][0]))));
  if (!fused) {
    more.append(make("p", "why", "Nothing predicts this token: it is the first of its chunk, and the target reads no start token."));
    return;
  }
  more.append(make("p", "why", word(why)));
  const under = fused[2] ? `${percent(fused[2])} kept; ${fused[3] === null ? "the true token is not kept" + (fused[4] === null ? "" : ", " + number(fused[4], 2) + " nats") : cost(fused[4], fused[3])}` : "nothing is taught";
  more.append(make("div", "three", list("Fused target", under, fused[0], token, fused[1]), prediction("Student before", before, token), prediction("Student after", after, token), ...pairs.map((pair, i) => prediction(`After, ${data.arms[i]}`, pair, token))));
  sources.forEach((one, s) => more.append(source(one, s, token)));
}

// --- pointer and keys ----------------------------------------------------------------------------------------------
const box = at("tokens");
const under = (event) => (event.target.id && event.target.id.startsWith("t") && event.target.parentNode === box ? Number(event.target.id.slice(1)) : null);
box.addEventListener("click", (event) => { const i = under(event); if (i !== null) choose(i); });
box.addEventListener("pointerover", (event) => { const i = under(event); if (i !== null && event.pointerType === "mouse") explain(i); });
box.addEventListener("pointerleave", () => explain(chosen));

function line(step) {
  const from = at(`t${chosen}`).getClientRects()[0];
  let best = chosen, top = null, nearest = Infinity;
  for (let i = chosen + step; i >= 0 && i < shown.tokens.length; i += step) {
    const here = at(`t${i}`).getClientRects()[0];
    if (step * (here.top - from.top) < from.height / 2) continue;
    if (top === null) top = here.top;
    if (Math.abs(here.top - top) > from.height / 2) break;
    if (Math.abs(here.left - from.left) < nearest) [best, nearest] = [i, Math.abs(here.left - from.left)];
  }
  return best;
}

box.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const to = { ArrowRight: () => chosen + 1, ArrowLeft: () => chosen - 1, ArrowDown: () => line(1), ArrowUp: () => line(-1), Home: () => 0, End: () => shown.tokens.length - 1 }[event.key];
  if (!to) return;
  event.preventDefault();
  choose(to());
});

// --- the page ------------------------------------------------------------------------------------------------------
const trained = data.documents.some((one) => one.tokens.some(([, , , nats]) => nats && nats[2] !== null));
for (const name of Object.keys(COLOURS)) {
  if (name === "after against before" && !trained) continue;
  const choice = make("input");
  Object.assign(choice, { type: "radio", name: "colour", checked: name === colour });
  choice.addEventListener("change", () => { colour = name; paint(); choose(chosen); });
  at("colours").append(make("label", "", choice, ` ${name}`));
}
if (at("documents")) {
  data.documents.forEach((one, i) => {
    const button = make("button", "", one.name, make("small", "", one.note || one.about[0]));
    button.type = "button";
    button.addEventListener("click", () => open(i));
    at("documents").append(make("li", "", button));
  });
}
open(0);
