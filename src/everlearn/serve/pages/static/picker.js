// Labels: the numbered ones, and a field to find any other by typing (a combobox, as WAI-ARIA describes it).

import { byId, say } from "./api.js";

const SHOWN = 60; // options at once; typing finds the others
const NUMBERED = 9;
const ORDER = "everlearn-labels"; // the order of this tab: a number must not change its meaning while somebody works

export class Picker {
  /** chosen(label): called with a label that is there or a new one; left(): the field was left by Escape. */
  constructor({ chosen, left }) {
    this.field = byId("find");
    this.found = byId("found");
    this.buttons = byId("labels");
    this.chosen = chosen;
    this.left = left;
    this.order = JSON.parse(sessionStorage.getItem(ORDER) ?? "[]");
    this.current = null;
    this.at = -1;
    this.field.addEventListener("input", () => this.filter());
    this.field.addEventListener("focus", () => this.filter());
    this.field.addEventListener("blur", () => this.close());
    this.field.addEventListener("keydown", (event) => this.key(event));
    this.found.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the field keeps the focus
      const option = event.target.closest("[role=option]");
      if (option) this.take(option.dataset.label);
    });
    this.buttons.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.chosen(button.dataset.label);
    });
  }

  /** The labels that there are, the most frequent first; those of this tab keep their numbers. */
  offer(labels) {
    const there = new Set(labels);
    this.order = [...this.order.filter((label) => there.has(label)), ...labels.filter((one) => !this.order.includes(one))];
    sessionStorage.setItem(ORDER, JSON.stringify(this.order));
    this.draw();
  }

  add(label) {
    if (!this.order.includes(label)) this.offer([...this.order, label]);
  }

  numbered(digit) {
    return this.order[digit - 1] ?? null;
  }

  /** A colour for a label, as far as may be from those of its neighbours: steps of the golden angle. */
  hue(label) {
    this.add(label);
    return (170 + 137.5 * this.order.indexOf(label)) % 360;
  }

  /** The label that is pressed: of the selected box, or suggested. */
  press(label) {
    this.current = label;
    for (const button of this.buttons.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.label === label));
    }
  }

  draw() {
    this.buttons.replaceChildren(
      ...this.order.slice(0, NUMBERED).map((label, at) => {
        const row = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.label = label;
        button.innerHTML = "<kbd></kbd><span></span>";
        button.firstChild.textContent = at + 1;
        button.lastChild.textContent = label;
        row.append(button);
        return row;
      }),
    );
    this.press(this.current);
  }

  filter() {
    const typed = this.field.value.trim().normalize("NFC");
    const wanted = typed.toLocaleLowerCase();
    const begin = this.order.filter((one) => one.toLocaleLowerCase().startsWith(wanted));
    const hold = this.order.filter((one) => !begin.includes(one) && one.toLocaleLowerCase().includes(wanted));
    const options = [...begin, ...hold].slice(0, SHOWN).map((label) => ({ label, text: label }));
    if (typed && !this.order.includes(typed)) options.push({ label: typed, text: say("label_new", { label: typed }) });
    this.found.replaceChildren(
      ...options.map(({ label, text }, at) => {
        const option = document.createElement("li");
        option.id = `found-${at}`;
        option.role = "option";
        option.dataset.label = label;
        option.textContent = text;
        return option;
      }),
    );
    this.point(options.length && typed ? 0 : -1);
    this.found.hidden = options.length === 0;
    this.field.setAttribute("aria-expanded", String(!this.found.hidden));
  }

  point(at) {
    this.at = at;
    [...this.found.children].forEach((option, n) => option.setAttribute("aria-selected", String(n === at)));
    const option = this.found.children[at];
    if (option) {
      this.field.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    } else this.field.removeAttribute("aria-activedescendant");
  }

  key(event) {
    if (event.isComposing) return; // a Korean syllable is not finished yet
    const last = this.found.children.length - 1;
    if (event.key === "ArrowDown") this.point(this.at >= last ? 0 : this.at + 1);
    else if (event.key === "ArrowUp") this.point(this.at <= 0 ? last : this.at - 1);
    else if (event.key === "Enter") this.take(this.found.children[this.at]?.dataset.label ?? this.field.value.trim());
    else if (event.key === "Escape") {
      this.field.value = "";
      this.left();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  take(label) {
    if (!label) return;
    this.field.value = "";
    this.close();
    this.add(label);
    this.chosen(label);
  }

  open() {
    this.field.focus();
    this.field.select();
  }

  close() {
    this.found.hidden = true;
    this.field.setAttribute("aria-expanded", "false");
    this.field.removeAttribute("aria-activedescendant");
  }
}
