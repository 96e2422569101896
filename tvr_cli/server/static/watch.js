"use strict";
// Says below the title what keeps the library up to date, where something does: how far it is, and what failed.
(() => {
  const EVERY_MS = 5000;
  const place = document.getElementById("watch");
  let before = "", library = null;

  const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
  const lineOf = (status) => {
    const { state, progress, settling, read, failed } = status;
    const parts = [{ paused: "Watching for videos is paused", starting: "Watching for videos is about to begin" }[state]
      || (state === "working" ? "New videos are being taken in" : "New videos are taken in as they come")];
    if (progress) parts.push(`${progress.what}: ${progress.done}${progress.of === null ? "" : ` of ${progress.of}`}`);
    if (settling) parts.push(`${count(settling, "video")} still being written`);
    if (read) parts.push(`${count(read, "video")} read so far`);
    if (failed) parts.push(`${count(failed, "video")} failed`);
    return `${parts.join("; ")}.`;
  };

  const listOf = (status) => {
    const wrong = [...status.problems, ...status.failures];
    if (!wrong.length) return null;
    const details = document.createElement("details"), summary = document.createElement("summary");
    summary.textContent = "What failed";
    const list = document.createElement("ul");
    list.tabIndex = 0; // it scrolls, also by keys
    list.setAttribute("aria-label", "What failed");
    for (const one of wrong) {
      const item = document.createElement("li");
      item.textContent = `${one.what}: ${one.reason}`;
      list.append(item);
    }
    details.append(summary, list);
    return details;
  };

  const show = (status) => {
    const said = JSON.stringify({ ...status, updated: "" });
    if (said === before) return; // what did not change is not said again, and an open list stays open
    before = said;
    const has = JSON.stringify([status.clips, status.read, status.renamed, status.forgotten]);
    if (library !== null && has !== library) document.dispatchEvent(new Event("library"));
    library = has;
    place.hidden = status.state === "none";
    const line = document.createElement("p"), list = listOf(status);
    line.textContent = lineOf(status);
    const open = place.querySelector("details[open]") !== null;
    if (list) list.open = open;
    place.replaceChildren(...[line, list].filter((part) => part !== null));
  };

  const look = async () => {
    try {
      const answer = await fetch("/api/watch");
      if (answer.ok) show(await answer.json());
    } catch { /* the server has ended, which the next search says */ }
    setTimeout(look, EVERY_MS);
  };
  look();
})();
