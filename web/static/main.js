// Opens the session and shows the view that the address names.

import { connection, get, openSession } from "./api.js";
import { byId, sentenceOf } from "./dom.js";
import { route, show, trouble } from "./router.js";
import { about } from "./about.js";

route(/^\/$/, "Images", async () => (await import("./gallery.js")).showGallery);
route(/^\/images\/?$/, "Images", async () => (await import("./gallery.js")).showGallery);
route(/^\/images\/([0-9a-f]{32})(?:\/(\d{1,6}))?\/?$/, "Image", async () => (await import("./page.js")).showPage);
route(/^\/plates\/?$/, "Plates", async () => (await import("./plates.js")).showPlates);
route(/^\/plates\/([^/]+)\/?$/, "Plate", async () => (await import("./plate.js")).showPlate);
route(/^\/plates\/([^/]+)\/([^/]+)\/?$/, "Well", async () => (await import("./well.js")).showWell);
route(/^\/send\/?$/, "Send", async () => (await import("./send.js")).showSend);
route(/^\/failures\/?$/, "Failures", async () => (await import("./failures.js")).showFailures);
route(/^\/spending\/?$/, "Spending", async () => (await import("./spending.js")).showSpending);

connection.addEventListener("lost", () => {
  byId("connection").textContent = "Connection lost – what you paint is kept here";
});
connection.addEventListener("ended", () => {
  byId("connection").textContent = "The session ended – open the address that `cytomask web` printed";
});
connection.addEventListener("found", () => {
  byId("connection").textContent = "";
  if (!about.stack) void start(); // a bookmark, whose session another tab has opened
});
addEventListener("hashchange", () => void start()); // the printed address, opened again in this tab

async function start() {
  try {
    await openSession();
    Object.assign(about, await get("session"));
    byId("stack").textContent = `stack ${about.stack}, ${about.region}`;
  } catch (error) {
    byId("view").replaceChildren(trouble(sentenceOf(error)));
    return;
  }
  await show();
}

void start();
