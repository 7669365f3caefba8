// The way to the server: JSON in and out, errors as the server says them, the words of the page.

export const words = JSON.parse(document.getElementById("words").textContent);

/** A sentence of the page's language, with its blanks filled in. */
export function say(name, values = {}) {
  return (words[name] ?? name).replace(/\{(\w+)\}/g, (whole, key) => (key in values ? String(values[key]) : whole));
}

export const byId = (id) => document.getElementById(id);

/** What the server refused. status 0: it cannot be reached. */
export class Refused extends Error {
  constructor(status, code, message, remedy = "") {
    super([message, remedy].filter(Boolean).join(" "));
    this.status = status;
    this.code = code;
  }
}

/** One request. Who is not signed in any more is sent to the sign-in page. */
export async function ask(method, path, body) {
  const options = { method, headers: { "Content-Type": "application/json" }, cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}`, options);
  } catch {
    throw new Refused(0, "away", say("away"));
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const told = await answer.json().catch(() => ({}));
  const { code = "fault", message = answer.statusText, remedy = "" } = told.error ?? {};
  if (answer.status === 401 && path !== "session") location.assign("/sign-in");
  throw new Refused(answer.status, code, message, remedy);
}

/** An image as a local URL, decoded already, so that it is there at once when it is shown. */
export async function picture(sample) {
  const answer = await fetch(`/api/v1/review/${sample}/image`, { cache: "no-store" });
  if (!answer.ok) throw new Refused(answer.status, "image", say("failed_image"));
  const url = URL.createObjectURL(await answer.blob());
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Refused(0, "image", say("failed_image"));
  }
  return { url, width: image.naturalWidth, height: image.naturalHeight };
}

/** The language is kept in a cookie, so that the server writes the page in it. */
export function languages() {
  byId("language").addEventListener("change", (event) => {
    document.cookie = `everlearn-language=${event.target.value}; path=/; max-age=31536000; SameSite=Strict`;
    location.reload();
  });
}

/** The letter of a key, also where a Korean keyboard is switched on: then its place on the board. */
export function letter(event) {
  if (/^[ -~]$/.test(event.key)) return event.key.toLowerCase();
  const place = /^Key([A-Z])$/.exec(event.code);
  return event.key.length === 1 || event.key === "Process" ? (place?.[1].toLowerCase() ?? event.key) : event.key;
}
