// How much of the image is seen: fitted, zoomed, panned. The plane holds image and boxes; its size is what is zoomed.

const MOST = 20; // times the fitted size
const LARGEST_FIT = 8; // times the image's own pixels: a thumbnail is shown large, but not as single pixels

export class View {
  constructor(stage, plane) {
    this.stage = stage;
    this.plane = plane;
    this.image = { width: 1, height: 1 };
    this.zoom = 1;
    this.x = this.y = 0; // of the plane's left upper corner, in CSS pixels of the stage
    new ResizeObserver(() => this.draw()).observe(stage);
    stage.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.at(Math.exp(-event.deltaY * 0.0015), this.point(event));
      },
      { passive: false },
    );
  }

  load(width, height) {
    this.image = { width, height };
    this.fit();
  }

  fit() {
    this.zoom = 1;
    this.x = this.y = 0;
    this.draw();
  }

  /** Zoom by a factor about a point of the stage, its middle by default. */
  at(factor, point = { x: this.stage.clientWidth / 2, y: this.stage.clientHeight / 2 }) {
    const zoom = Math.min(MOST, Math.max(1, this.zoom * factor));
    const by = zoom / this.zoom;
    this.x = point.x - (point.x - this.x) * by;
    this.y = point.y - (point.y - this.y) * by;
    this.zoom = zoom;
    this.draw();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.draw();
  }

  /** Bring a box (in shares of the image) into sight. */
  reveal(box) {
    const { width, height } = this.size();
    const edge = 24;
    const inside = (start, length, from, room) => {
      const begin = start * length + from;
      return begin < edge ? edge - begin : begin > room - edge ? room - edge - begin : 0;
    };
    const dx = inside(box.x + box.width / 2, width, this.x, this.stage.clientWidth);
    const dy = inside(box.y + box.height / 2, height, this.y, this.stage.clientHeight);
    if (dx || dy) this.pan(dx, dy);
  }

  size() {
    const fit = Math.min(
      this.stage.clientWidth / this.image.width,
      this.stage.clientHeight / this.image.height,
      LARGEST_FIT,
    );
    return { width: this.image.width * fit * this.zoom, height: this.image.height * fit * this.zoom };
  }

  draw() {
    const { width, height } = this.size();
    const keep = (at, length, room) =>
      length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, at));
    this.x = keep(this.x, width, this.stage.clientWidth);
    this.y = keep(this.y, height, this.stage.clientHeight);
    this.plane.style.width = `${width}px`;
    this.plane.style.height = `${height}px`;
    this.plane.style.transform = `translate(${this.x}px, ${this.y}px)`;
  }

  /** Where an event is on the stage, in CSS pixels. */
  point(event) {
    const edge = this.stage.getBoundingClientRect();
    return { x: event.clientX - edge.left, y: event.clientY - edge.top };
  }

  /** Where an event is on the image, in shares of its sides, at its edge where it is outside. */
  share(event) {
    const point = this.point(event);
    const { width, height } = this.size();
    const within = (value) => Math.min(1, Math.max(0, value));
    return { x: within((point.x - this.x) / width), y: within((point.y - this.y) / height) };
  }
}
