// The boxes of one image: what is drawn, what is selected, and how to undo it. Coordinates are shares of the image's
// sides, x and y the left upper corner. Nothing here knows of the screen.

const LEAST = 1e-4; // the smallest side that a box keeps

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Boxes {
  /** changed(): called after every change. */
  constructor(changed) {
    this.changed = changed;
    this.number = 0; // of the last box that was made: no id is ever given twice
    this.begin([]);
  }

  begin(boxes) {
    this.all = boxes.map((box) => ({ ...box, id: ++this.number }));
    this.selected = null;
    this.past = [];
    this.future = [];
    this.last = ""; // what kind of change was the last one, to which box
  }

  load(boxes) {
    this.begin(boxes);
    this.changed();
  }

  get(id = this.selected) {
    return this.all.find((box) => box.id === id) ?? null;
  }

  select(id) {
    if (id === this.selected) return;
    this.selected = id;
    this.last = "";
    this.changed();
  }

  /** Remember what is there before a change. Changes of one kind to one box, one after the other, are one step. */
  remember(kind = "") {
    if (kind && kind === this.last) return;
    this.last = kind;
    this.past.push(this.all.map((box) => ({ ...box })));
    this.future = [];
  }

  add(box) {
    this.remember();
    const made = { confidence: null, ...place(box), id: ++this.number };
    this.all.push(made);
    this.selected = made.id;
    this.changed();
    return made;
  }

  remove(id = this.selected) {
    const at = this.all.findIndex((box) => box.id === id);
    if (at < 0) return null;
    this.remember();
    const [gone] = this.all.splice(at, 1);
    if (this.selected === id) this.selected = (this.all[at] ?? this.all[at - 1])?.id ?? null;
    this.changed();
    return gone;
  }

  relabel(label, id = this.selected) {
    this.alter(id, { label }, "");
  }

  /** Move or resize. Whoever touches a box says that it is right: it is a proposal no more. */
  alter(id, sides, kind) {
    const box = this.get(id);
    if (!box) return;
    this.remember(kind && `${kind} ${id}`);
    Object.assign(box, place({ ...box, ...sides }), { confidence: null });
    this.changed();
  }

  shift(dx, dy) {
    const box = this.get();
    if (!box) return;
    this.alter(box.id, { x: clamp(box.x + dx, 0, 1 - box.width), y: clamp(box.y + dy, 0, 1 - box.height) }, "shift");
  }

  grow(dx, dy) {
    const box = this.get();
    if (!box) return;
    const width = clamp(box.width + dx, Math.min(box.width, Math.abs(dx) || 1), 1 - box.x);
    const height = clamp(box.height + dy, Math.min(box.height, Math.abs(dy) || 1), 1 - box.y);
    this.alter(box.id, { width, height }, "grow");
  }

  undo() {
    return this.swap(this.past, this.future);
  }

  redo() {
    return this.swap(this.future, this.past);
  }

  swap(from, to) {
    const before = from.pop();
    if (!before) return false;
    to.push(this.all);
    this.all = before;
    this.last = "";
    if (!this.get()) this.selected = null;
    this.changed();
    return true;
  }

  /** As an answer: without what only the page needs. */
  answer() {
    return this.all.map(({ label, x, y, width, height }) => ({ label, x, y, width, height }));
  }
}

/** Inside of the image, and with an area. */
function place({ x, y, width, height, ...rest }) {
  const left = clamp(x, 0, 1 - LEAST);
  const top = clamp(y, 0, 1 - LEAST);
  return { ...rest, x: left, y: top, width: clamp(width, LEAST, 1 - left), height: clamp(height, LEAST, 1 - top) };
}
