// The review page: which key does what, and what is said of an image. The queue is in queue.js, boxes in editor.js.

import { ask, byId, languages, letter, say } from "./api.js";
import { Editor } from "./editor.js";
import { Picker } from "./picker.js";
import { Queue } from "./queue.js";
import { View } from "./view.js";

const task = byId("main").dataset.task;
const stage = byId("stage");
const view = new View(stage, byId("plane"));
const SINGLE = "everlearn-single-keys";

let held = null; // the image that is shown
let shown = 0; // how many were
let done = 0; // how many were answered
let brush = null; // the label of new boxes
const drawnHere = new Set(); // classes of the boxes of this page's answers: the next image may have come before them
let version = null; // of the list of labels

// --- what is said aloud -------------------------------------------------------------------------------------------

function tell(message) {
  byId("status").textContent = message;
}

function fail(message, again) {
  byId("failure").hidden = !message;
  byId("failure-words").textContent = message ?? "";
  byId("failure-again").hidden = !again;
  byId("failure-again").onclick = again;
}

function count({ queued, others }) {
  byId("waiting").textContent = say(others ? "waiting_others" : "waiting", { queued, others });
  byId("answered").textContent = done ? say("answered", { n: done }) : "";
}

// --- parts --------------------------------------------------------------------------------------------------------

const picker = task === "regress" ? null : new Picker({ chosen: (label) => chosen(label), left: () => focus() });
const editor =
  task !== "detect"
    ? null
    : new Editor(view, {
        tell,
        hue: (label) => picker.hue(label),
        label: () => brush ?? picker.numbered(1),
        selected: (box) => picker.press(box?.label ?? brush),
      });
const queue = new Queue({ show, count, fail });

/** A label was chosen: of the selected box and the next ones, or of the whole image. */
function chosen(label) {
  if (!held) return;
  if (task === "classify") {
    answer({ label });
    return;
  }
  brush = label;
  picker.add(label);
  if (editor.boxes.get()) editor.relabel(label);
  else {
    picker.press(label);
    focus();
  }
}

function focus() {
  if (editor) editor.focus();
  else if (task === "regress") byId("value").focus();
  else stage.focus({ preventScroll: true });
}

// --- showing ------------------------------------------------------------------------------------------------------

/** Until all of an image is shown nothing answers it: what is drawn would still be of the one before. */
async function show(next) {
  held = null;
  byId("main").hidden = !next;
  byId("empty").hidden = Boolean(next);
  byId("loading").hidden = Boolean(next);
  if (!next) {
    nothing();
    return;
  }
  const { item, pixels, error } = next;
  if (error) fail(error.message, null);
  await offer(item);
  if (queue.current !== next) return;
  shown += 1;
  const image = byId("image");
  image.hidden = !pixels;
  if (pixels) image.src = pixels.url;
  view.load(pixels?.width ?? item.width ?? 1, pixels?.height ?? item.height ?? 1);
  facts(item);
  const what = task === "detect" ? boxes(next) : suggest(item);
  held = next;
  byId("main").dataset.sample = item.sample;
  tell(say("said_image", { n: shown, what }));
  focus();
}

/** The labels that there are, where they have changed. */
async function offer(item) {
  if (!picker || item.labels === version) return;
  try {
    const list = await ask("GET", "review/labels");
    version = list.version;
    picker.offer(list.labels.map((label) => label.name));
  } catch (error) {
    fail(error.message, null);
  }
}

function facts(item) {
  byId("reason").textContent = say(`reason_${item.reason}`);
  byId("camera").textContent = item.camera || "–";
  byId("taken").textContent = item.at;
  for (const [name, value] of [["held", item.label], ["suggested", item.suggestion], ["denied", item.denied]]) {
    if (!byId(name)) continue;
    byId(name).textContent = value ?? "";
    byId(`${name}-row`).hidden = value === null;
  }
}

function boxes({ item, kept }) {
  editor.load(kept ?? item.boxes ?? []);
  const names = editor.boxes.all.map((box) => box.label);
  return names.length ? say("said_boxes", { what: names.join(", ") }) : say("said_none");
}

const suggestion = (item) => item.suggestion ?? item.label;

function suggest(item) {
  const label = suggestion(item);
  byId("accept").disabled = task === "classify" && label === null;
  if (task === "regress") {
    byId("value").value = label ?? "";
    byId("value-range").textContent = say("value_range", item.range);
    byId("value").select();
  } else {
    picker.press(label);
    byId("reject").firstChild.textContent = `${label ? say("not_label", { label }) : say("not_this")} `;
    byId("reject").disabled = label === null;
  }
  return label === null ? say("said_no_suggestion") : say("said_suggested", { label });
}

function nothing() {
  const { others } = queue.waiting;
  const skipped = queue.skipped.length;
  const said = [skipped && say("empty_skipped", { n: skipped }), others && say("empty_others", { n: others })];
  byId("empty-numbers").textContent = said.filter(Boolean).join(" ");
  byId("look-again").hidden = !skipped;
  byId("empty-back").hidden = !queue.answers.length;
  byId("empty").focus();
  tell(say("empty"));
}

// --- answers ------------------------------------------------------------------------------------------------------

function answer(body, kept = null) {
  if (!held || queue.current !== held || queue.stuck) return;
  if (held.error) {
    tell(held.error.message); // nobody has seen it
    return;
  }
  fail(null);
  done += 1;
  queue.answer(body, kept);
}

function accept() {
  if (!held) return;
  const { item } = held;
  if (task === "detect") {
    const drawn = editor.boxes.answer();
    answer({ boxes: drawn, about: looked(item, drawn) }, editor.boxes.all.map((box) => ({ ...box })));
  } else if (task === "regress") {
    const value = byId("value");
    if (value.value === "" || !value.checkValidity()) {
      value.reportValidity();
      tell(say("value_range", item.range));
    } else answer({ label: value.value });
  } else if (suggestion(item) !== null) answer({ label: suggestion(item) });
  else tell(say("said_choose"));
}

/** The classes that were looked for: those that were known, and what was drawn beside them, here and on the images
 * before this one. */
function looked(item, drawn) {
  for (const { label } of drawn) drawnHere.add(label.split("/")[0].trim() || label);
  return [...new Set([...(item.about ?? []), ...drawnHere])];
}

function reject() {
  if (!held) return;
  const { item } = held;
  if (task === "detect") answer({ boxes: [], about: looked(item, []) }, editor.boxes.all.map((box) => ({ ...box })));
  else if (task === "classify" && suggestion(item) !== null) answer({ not: suggestion(item) });
}

function skip() {
  if (!queue.stuck) fail(null);
  tell(say("said_skipped"));
  queue.skip();
}

async function takeBack() {
  const back = await queue.takeBack();
  if (back) done -= 1;
  count(queue.waiting);
  tell(say(back ? "said_back" : "said_nothing_to_undo"));
}

// --- keys and buttons ---------------------------------------------------------------------------------------------

const LETTERS = { n: reject, s: skip, u: takeBack, l: () => picker?.open(), "/": () => picker?.open() };
const ALWAYS = { "+": () => view.at(1.4), "=": () => view.at(1.4), "-": () => view.at(1 / 1.4), 0: () => view.fit(), "?": help };

function key(event) {
  if (event.defaultPrevented || event.altKey || event.isComposing || byId("help").open) return;
  const { target } = event;
  const writing = target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape") {
    if (writing) focus();
    else editor?.boxes.select(null), stage.focus();
    return;
  }
  const pressed = letter(event);
  if (writing && !(target.id === "value" && passes(event, pressed))) return;
  const inside = stage.contains(target) || target === document.body || target.closest("#list, #empty") || writing;
  if (event.key === "Enter") {
    if (target.matches("button, a") || !inside) return; // a button does what it says
    accept();
  } else if ((event.ctrlKey || event.metaKey) && !event.key.startsWith("Arrow")) return;
  else if (!run(event, pressed, inside)) return;
  event.preventDefault();
}

/** In the field of a number a letter is a key as elsewhere; digits and what moves in it are not. */
function passes(event, pressed) {
  return event.key === "Enter" || (/^[nsu?]$/.test(pressed) && !event.ctrlKey && !event.metaKey);
}

function run(event, pressed, inside) {
  const single = byId("single-keys").checked;
  if (!single && /^[a-z0-9/?+=-]$/.test(pressed)) return false;
  const digit = /^[1-9]$/.test(pressed) ? Number(pressed) : 0;
  if (digit && picker) {
    const label = picker.numbered(digit);
    if (label) chosen(label);
    return Boolean(label);
  }
  if (!held && !["u", "?"].includes(pressed)) return false;
  if (inside && editor?.key(event, pressed)) return true;
  if (inside && !editor && event.key.startsWith("Arrow")) return pan(event.key);
  const action = ALWAYS[pressed] ?? LETTERS[pressed];
  if (!action || event.repeat) return false; // a key held down does not answer a whole queue
  action();
  return true;
}

function pan(arrow) {
  const [dx, dy] = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[arrow];
  view.pan(dx, dy);
  return true;
}

function help() {
  byId("help").showModal();
}

function buttons() {
  const does = {
    accept, reject, skip, "take-back": takeBack, "empty-back": takeBack, "help-open": help,
    "zoom-in": () => view.at(1.4), "zoom-out": () => view.at(1 / 1.4), "zoom-fit": () => view.fit(),
    "new-box": () => editor.fresh(), undo: () => editor.turn(false), redo: () => editor.turn(true),
    "look-again": () => queue.again(),
    "sign-out": async () => {
      queue.leave();
      await ask("DELETE", "session");
      location.assign("/sign-in");
    },
  };
  for (const [id, action] of Object.entries(does)) byId(id)?.addEventListener("click", action);
  const single = byId("single-keys");
  single.checked = localStorage.getItem(SINGLE) !== "off";
  single.addEventListener("change", () => localStorage.setItem(SINGLE, single.checked ? "on" : "off"));
}

/** Without boxes the image is dragged to pan it. */
function drags() {
  let from = null;
  stage.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!from) return;
    view.pan(event.clientX - from.x, event.clientY - from.y);
    from = { x: event.clientX, y: event.clientY };
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (from = null));
}

document.addEventListener("keydown", key);
buttons();
languages();
if (!editor) drags();
queue.begin();
