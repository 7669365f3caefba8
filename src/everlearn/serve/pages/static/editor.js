// Boxes on the image: how they look, and what mouse, pen and keys do to them.

import { byId, say } from "./api.js";
import { Boxes } from "./boxes.js";

const SLOP = 4; // CSS pixels that a hand trembles: less is a click
const STEP = 0.005; // of a side: what one press of an arrow moves
const NEW = 0.25; // of a side: a box made by a key
const SIDES = ["x", "y", "width", "height"];
const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Editor {
  /** label(): the label of a new box, null where none is chosen yet; selected(box): called when another is; hue(label):
   * its colour, in degrees. */
  constructor(view, { label, selected, tell, hue }) {
    this.view = view;
    this.stage = byId("stage");
    this.layer = byId("layer");
    this.list = byId("list");
    this.shown = null;
    this.label = label;
    this.tell = tell;
    this.told = selected;
    this.hue = hue;
    this.boxes = new Boxes(() => this.draw());
    this.drag = null;
    this.space = false;
    this.stage.addEventListener("pointerdown", (event) => this.down(event));
    this.stage.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.stage.addEventListener(end, (event) => this.up(event));
    this.layer.addEventListener("focusin", (event) => this.boxes.select(Number(event.target.dataset.id)));
    this.list.addEventListener("click", (event) => this.clicked(event));
    for (const side of SIDES) {
      byId(`side-${side}`).addEventListener("change", (event) => {
        const value = event.target.valueAsNumber / 100;
        if (Number.isFinite(value)) this.boxes.alter(this.boxes.selected, { [side]: value }, "");
        this.draw();
      });
    }
    for (const [type, held] of [["keydown", true], ["keyup", false]]) {
      addEventListener(type, (event) => {
        if (event.code === "Space") this.space = held;
      });
    }
  }

  load(boxes) {
    this.drag = null;
    this.boxes.load(boxes);
  }

  // --- keys -------------------------------------------------------------------------------------------------------

  /** Whether the key was for the boxes. */
  key(event, key) {
    if (event.key in ARROWS) return this.arrow(event);
    if (key === "Delete" || key === "Backspace" || key === "d") return this.remove();
    if (key === "b") return this.fresh();
    if (key === "z") return this.turn(event.shiftKey);
    return false;
  }

  arrow(event) {
    const [right, down] = ARROWS[event.key];
    const fine = event.ctrlKey || event.metaKey;
    const { width, height } = this.view.image;
    const dx = right * (fine ? 1 / width : Math.max(STEP, 1 / width));
    const dy = down * (fine ? 1 / height : Math.max(STEP, 1 / height));
    if (!this.boxes.get()) this.view.pan(-right * 40, -down * 40);
    else if (event.shiftKey) this.boxes.grow(dx, dy);
    else this.boxes.shift(dx, dy);
    if (this.boxes.get()) this.view.reveal(this.boxes.get());
    return true;
  }

  /** A new box in the middle of what is seen; further ones a little beside it. */
  fresh() {
    const label = this.needed();
    if (!label) return true;
    const { stage, view } = this;
    const size = view.size();
    const aside = 0.03 * (this.boxes.all.length % 5);
    const width = Math.min(1, (NEW * Math.min(stage.clientWidth, size.width)) / size.width);
    const height = Math.min(1, (NEW * Math.min(stage.clientHeight, size.height)) / size.height);
    const x = (stage.clientWidth / 2 - view.x) / size.width - width / 2 + aside;
    const y = (stage.clientHeight / 2 - view.y) / size.height - height / 2 + aside;
    this.boxes.add({ label, x, y, width, height });
    this.focus();
    this.tell(say("said_new", { label }));
    return true;
  }

  remove(id = this.boxes.selected) {
    const number = this.boxes.all.findIndex((box) => box.id === id) + 1;
    const gone = this.boxes.remove(id);
    if (gone) this.tell(say("said_deleted", { n: number, label: gone.label }));
    this.focus();
    return true;
  }

  turn(again) {
    const done = again ? this.boxes.redo() : this.boxes.undo();
    this.tell(say(done ? (again ? "said_redone" : "said_undone") : "said_nothing_to_undo"));
    this.focus();
    return true;
  }

  relabel(label) {
    const number = this.boxes.all.indexOf(this.boxes.get()) + 1;
    this.boxes.relabel(label);
    this.focus();
    if (number) this.tell(say("said_label", { n: number, label }));
  }

  needed() {
    const label = this.label();
    if (!label) this.tell(say("no_label"));
    return label;
  }

  /** The keyboard is where the selected box is. */
  focus() {
    const element = this.layer.querySelector(`[data-id="${this.boxes.selected}"]`) ?? this.stage;
    element.focus({ preventScroll: true });
  }

  // --- mouse, pen and fingers -------------------------------------------------------------------------------------

  down(event) {
    if (event.button > 1 || !this.view.image) return;
    event.preventDefault();
    const at = this.view.share(event);
    const element = event.target.closest(".box");
    const id = element ? Number(element.dataset.id) : null;
    const handle = event.target.dataset.handle;
    const box = this.boxes.get(id);
    const common = { at, from: { x: event.clientX, y: event.clientY }, id, moved: false };
    if (event.button === 1 || this.space) this.drag = { ...common, kind: "pan" };
    else if (handle) this.drag = { ...common, kind: "resize", handle, box: { ...box } };
    else if (box && id === this.boxes.selected && !event.shiftKey) this.drag = { ...common, kind: "shift", box: { ...box } };
    else this.drag = { ...common, kind: "draw" };
    this.stage.setPointerCapture(event.pointerId);
  }

  move(event) {
    const { drag } = this;
    if (!drag) return;
    const far = Math.hypot(event.clientX - drag.from.x, event.clientY - drag.from.y);
    if (!drag.moved && far < SLOP) return;
    const to = this.view.share(event);
    const [dx, dy] = [to.x - drag.at.x, to.y - drag.at.y];
    if (drag.kind === "pan") {
      this.view.pan(event.clientX - drag.from.x, event.clientY - drag.from.y);
      drag.from = { x: event.clientX, y: event.clientY };
    } else if (drag.kind === "shift") {
      const { x, y, width, height } = drag.box;
      const within = (value, room) => Math.min(Math.max(0, value), room);
      this.boxes.alter(drag.id, { x: within(x + dx, 1 - width), y: within(y + dy, 1 - height) }, drag.moved ? "drag" : "");
      this.boxes.last = `drag ${drag.id}`;
    } else if (drag.kind === "resize") {
      this.boxes.alter(drag.id, pulled(drag.box, drag.handle, dx, dy), drag.moved ? "drag" : "");
      this.boxes.last = `drag ${drag.id}`;
    } else this.drawn(drag, to);
    drag.moved = true;
  }

  /** The box between where the button was pressed and where it is now. */
  drawn(drag, to) {
    const area = {
      x: Math.min(drag.at.x, to.x), y: Math.min(drag.at.y, to.y),
      width: Math.abs(to.x - drag.at.x), height: Math.abs(to.y - drag.at.y),
    };
    if (!drag.moved) {
      const label = this.needed();
      if (!label) this.drag = null;
      else drag.id = this.boxes.add({ label, ...area }).id;
    } else {
      this.boxes.alter(drag.id, area, "drag");
    }
    this.boxes.last = `drag ${drag.id}`;
  }

  up() {
    const { drag } = this;
    this.drag = null;
    if (!drag) return;
    this.boxes.last = "";
    if (!drag.moved && drag.kind !== "pan") this.boxes.select(drag.id);
    this.focus();
  }

  clicked(event) {
    const button = event.target.closest("button");
    if (!button) return;
    const id = Number(button.closest("li").dataset.id);
    if (button.classList.contains("drop")) {
      this.remove(id);
      return;
    }
    this.boxes.select(id);
    this.view.reveal(this.boxes.get());
    this.focus();
  }

  // --- looks ------------------------------------------------------------------------------------------------------

  draw() {
    const { all, selected } = this.boxes;
    const order = new Map([...all].sort((a, b) => b.width * b.height - a.width * a.height).map((box, at) => [box.id, at + 1]));
    match(this.layer, all, newBox, (element, box, at) => {
      for (const side of SIDES) element.style[{ x: "left", y: "top" }[side] ?? side] = `${100 * box[side]}%`;
      element.style.zIndex = box.id === selected ? 1000 : order.get(box.id); // the smaller lies above
      element.style.setProperty("--hue", this.hue(box.label));
      element.classList.toggle("proposed", box.confidence != null);
      element.classList.toggle("selected", box.id === selected);
      element.classList.toggle("high", box.y > 0.06);
      element.setAttribute("aria-label", `${named(box, at, all.length)}; ${placed(box)}`);
      element.setAttribute("aria-pressed", String(box.id === selected));
      element.firstChild.textContent = box.label + sure(box, " ");
    });
    match(this.list, all, newRow, (element, box, at) => {
      const [pick, drop] = element.children;
      element.style.setProperty("--hue", this.hue(box.label));
      pick.querySelector(".what").textContent = box.label;
      pick.querySelector(".sure").textContent = sure(box);
      pick.setAttribute("aria-label", `${named(box, at, all.length)}; ${placed(box)}`);
      pick.setAttribute("aria-pressed", String(box.id === selected));
      drop.setAttribute("aria-label", say("delete_box", { n: at + 1, label: box.label }));
      if (box.id === selected && selected !== this.shown) element.scrollIntoView({ block: "nearest" });
    });
    this.shown = selected; // what was scrolled to once is left where the reader puts it
    byId("no-boxes").hidden = all.length > 0;
    byId("boxes-number").textContent = all.length || "";
    byId("undo").disabled = !this.boxes.past.length;
    byId("redo").disabled = !this.boxes.future.length;
    this.fields();
    this.told(this.boxes.get());
  }

  fields() {
    const box = this.boxes.get();
    byId("selected").hidden = !box;
    for (const side of SIDES) byId(`side-${side}`).value = box ? (100 * box[side]).toFixed(1) : "";
  }
}

/** One element for each box, in the boxes' order; elements that are there are kept, and with them the focus. */
function match(parent, boxes, make, fill) {
  const there = new Map([...parent.children].map((element) => [Number(element.dataset.id), element]));
  boxes.forEach((box, at) => {
    let element = there.get(box.id);
    there.delete(box.id);
    if (!element) {
      element = make();
      element.dataset.id = box.id;
    }
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] ?? null);
    fill(element, box, at);
  });
  for (const gone of there.values()) gone.remove();
}

function newBox() {
  const element = document.createElement("div");
  element.className = "box";
  element.tabIndex = 0;
  element.role = "button";
  const tag = document.createElement("span");
  tag.className = "tag";
  element.append(tag);
  for (const handle of HANDLES) {
    const corner = document.createElement("span");
    corner.className = `handle ${handle}`;
    corner.dataset.handle = handle;
    element.append(corner);
  }
  return element;
}

function newRow() {
  const row = document.createElement("li");
  row.innerHTML =
    '<button type="button" class="pick"><span class="swatch" aria-hidden="true"></span>' +
    '<span class="what"></span><span class="sure muted"></span></button>' +
    '<button type="button" class="drop"><span aria-hidden="true">×</span></button>';
  return row;
}

/** A box after one of its handles was pulled; pulled over its other side it turns. */
function pulled(box, handle, dx, dy) {
  let [left, top, right, bottom] = [box.x, box.y, box.x + box.width, box.y + box.height];
  if (handle.includes("w")) left += dx;
  if (handle.includes("e")) right += dx;
  if (handle.includes("n")) top += dy;
  if (handle.includes("s")) bottom += dy;
  return {
    x: Math.min(left, right), y: Math.min(top, bottom),
    width: Math.abs(right - left), height: Math.abs(bottom - top),
  };
}

const percent = (value) => (100 * value).toFixed(1);
const sure = (box, before = "") => (box.confidence == null ? "" : `${before}${Math.round(100 * box.confidence)} %`);
const placed = (box) => say("box_place", Object.fromEntries(SIDES.map((side) => [side, percent(box[side])])));

function named(box, at, of) {
  const values = { label: box.label, n: at + 1, of, confidence: sure(box) };
  return say(box.confidence == null ? "box_of" : "box_proposed", values);
}
