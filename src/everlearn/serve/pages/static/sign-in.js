// Signing in. A token in the address's fragment never reaches a server or its logs; it is taken from there at once.

import { ask, byId, languages, say } from "./api.js";

const status = byId("status");

async function enter(token) {
  status.textContent = say("signing_in");
  try {
    await ask("POST", "session", { token });
    location.replace("/review");
  } catch (error) {
    status.textContent = error.message;
    byId("token").focus();
    byId("token").select();
  }
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(byId("token").value.trim());
});

languages();
const given = new URLSearchParams(location.hash.slice(1)).get("token");
history.replaceState(null, "", location.pathname);
if (given) enter(given);
else byId("token").focus();
