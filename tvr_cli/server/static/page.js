"use strict";
// Asks the server, shows what it says. Names and words of a library are only ever text here, never markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  let picture = null; // a file that is asked with
  let like = null; // {video, start, end}
  let shown = []; // moments in the order of their cards
  let question = ""; // that these answer
  let asking = null;

  const made = (tag, attributes = {}, ...inside) => {
    const one = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) one.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) one.setAttribute(name, value);
    }
    one.append(...inside.filter((x) => x !== null && x !== undefined));
    return one;
  };

  const clock = (s) => {
    const tenths = Math.round(s * 10), whole = Math.floor(tenths / 10);
    const h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60, rest = (whole % 60) + (tenths % 10) / 10;
    const seconds = rest.toFixed(1).padStart(4, "0");
    return h ? `${h}:${String(m).padStart(2, "0")}:${seconds}` : `${m}:${seconds}`;
  };
  const nameOf = (path) => path.split(/[\\/]/).pop();
  const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

  const say = (text, wrong = false) => {
    $("state").textContent = text;
    $("state").classList.toggle("wrong", wrong);
  };

  const fetched = async (address, options) => {
    const answer = await fetch(address, options);
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error || `the server said ${answer.status}`);
  };
  const got = async (address, options) => (await fetched(address, options)).json();
  const heard = (answer) => JSON.parse(answer.headers.get("tvr-said") || "[]"); // what is to be said beside it
  const posted = (sent) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(sent) });
  const why = (error) => error instanceof TypeError ? "The server does not answer; it may have been ended." : error.message;

  // ------------------------------------------------------------------------------------------------------ asking

  const address = () => {
    const asked = new URLSearchParams();
    const put = (name, value) => { if (value) asked.append(name, value); };
    put("q", $("q").value.trim());
    if (like) put("like", `${like.video}@${like.start}-${like.end}`);
    for (const name of ["plus", "minus", "inside", "newer", "older", "channel", "k"]) put(name, $(name).value.trim());
    if ($("all").checked) put("everything", "true");
    put("curves", "true");
    return asked;
  };

  const ask = async (event) => {
    if (event) event.preventDefault();
    const asked = address();
    if (!asked.get("q") && !asked.get("plus") && !like && !picture) return;
    if (asking) asking.abort();
    const mine = asking = new AbortController();
    say("Searching …");
    try {
      let answer;
      if (picture) {
        const form = new FormData();
        form.append("image", picture);
        for (const [name, value] of asked) form.append(name, value);
        answer = await fetched("/api/search", { method: "POST", body: form, signal: mine.signal });
      } else {
        answer = await fetched(`/api/search?${asked}`, { signal: mine.signal });
      }
      const { results } = await answer.json();
      if (mine === asking) show(results[0], heard(answer));
    } catch (error) {
      if (error.name === "AbortError") return;
      shown = [];
      $("lines").textContent = "";
      $("cards").replaceChildren();
      counted();
      say(why(error), true);
    }
  };

  const parts = () => {
    const chips = [];
    const chip = (label, address, away) => chips.push(made("li", {},
      address ? made("img", { src: address, alt: "" }) : null, label,
      made("button", { type: "button", "aria-label": `Leave out: ${label}`, onclick: away }, "×")));
    if (picture) chip("a picture", URL.createObjectURL(picture), () => { picture = null; $("image").value = ""; parts(); });
    if (like) chip(`like ${nameOf(like.path)} ${clock(like.start)}–${clock(like.end)}`, pictureOf(like), () => { like = null; parts(); });
    $("parts").replaceChildren(...chips);
  };

  // ------------------------------------------------------------------------------------------------------ showing

  const pictureOf = (moment) => `/api/picture?video=${encodeURIComponent(moment.video_id || moment.video)}&at=${moment.peak ?? moment.start}`;

  const curveOf = (hit) => {
    const { ts, values, low, high } = hit.curve;
    if (!ts.length) return null;
    const end = Math.max(hit.end, ts[ts.length - 1]), x = (t) => (1000 * t / end).toFixed(1);
    const y = (v) => (100 - 92 * (v - low) / Math.max(high - low, 1e-9)).toFixed(1);
    const drawn = document.createElementNS(SVG, "svg");
    const put = (tag, attributes) => {
      const one = document.createElementNS(SVG, tag);
      for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
      drawn.append(one);
    };
    for (const [name, value] of Object.entries({
      class: "curve", viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img",
      "aria-label": `How well each second fits; the moment is ${clock(hit.start)} to ${clock(hit.end)} of ${clock(end)}`,
    })) drawn.setAttribute(name, value);
    put("rect", { class: "moment", x: x(hit.start), y: 0, height: 100, width: Math.max(4, x(hit.end) - x(hit.start)) });
    put("path", { class: "line", d: `M0,101 ${ts.map((t, i) => `L${x(t)},${y(values[i])}`).join(" ")} L1000,101 Z` });
    put("line", { class: "peak", x1: x(hit.peak), x2: x(hit.peak), y1: 0, y2: 100 });
    put("line", { class: "now", x1: -9, x2: -9, y1: 0, y2: 100 });
    drawn.dataset.end = end;
    return drawn;
  };

  const card = (hit, number, faint) => {
    const name = nameOf(hit.path), when = `${clock(hit.start)}–${clock(hit.end)}`;
    const image = made("img", { src: pictureOf(hit), alt: "", loading: number < 6 ? "eager" : "lazy" });
    const stage = made("button", { type: "button", class: "stage play", "aria-haspopup": "dialog",
      onclick: () => player.open(number) },
      image, made("span", { class: "rank" }, String(hit.rank)), made("span", { class: "hidden" }, `: play ${name}, `),
      made("span", { class: "when" }, when), hit.channel === "picture" ? null : made("span", { class: "by" }, hit.channel),
      made("span", { class: "go", "aria-hidden": "true" }));
    image.addEventListener("error", () => image.replaceWith(made("span", { class: "none" }, "no picture")));
    const sure = hit.confidence === null || hit.confidence === undefined ? hit.score.toFixed(3) : `${Math.floor(100 * hit.confidence)} %`;
    return made("li", {}, made("article", { class: `card${faint ? " faint" : ""}` }, stage,
      made("div", { class: "about" },
        made("div", { class: "row" }, made("h3", { class: "name" }, made("bdi", {}, name)), made("span", { class: "score" }, sure)),
        made("p", { class: "folder" }, made("bdi", {}, hit.path.slice(0, hit.path.length - name.length))),
        hit.missing ? made("p", { class: "gone" }, hit.path.startsWith("/") ? "The file is not there any more." : "Imported without its file.") : null,
        hit.said ? made("blockquote", { class: "said" }, hit.said) : null,
        made("div", { class: "time" }, hit.curve ? curveOf(hit) : null),
        made("div", { class: "does" },
          made("button", { type: "button", onclick: () => moreLike(hit) }, "More like this"),
          made("button", { type: "button", onclick: (e) => saveClip(hit, e.currentTarget) }, "Save clip"),
          made("button", { type: "button", onclick: (e) => copy(hit.path, e.currentTarget) }, "Copy path"),
          made("label", { class: "pick" }, made("input", { type: "checkbox", onchange: counted }), "Select",
            made("span", { class: "hidden" }, ` ${name}, ${when}`))))));
  };

  const show = (answer, lines) => {
    $("lines").textContent = lines.join(" ");
    const found = answer.hits, nearest = answer.nearest || [];
    shown = [...found, ...nearest];
    question = answer.query;
    $("cards").replaceChildren(...shown.map((hit, i) => card(hit, i, i >= found.length)));
    counted();
    if (found.length) say(`${count(found.length, "moment")}${nearest.length ? `, and ${nearest.length} with less confidence` : ""}`);
    else if (nearest.length) say("Nothing found with confidence. Nearest:");
    else say("Nothing found.");
    document.title = answer.query ? `${answer.query} – tvr` : "tvr";
  };

  const copy = async (text, button) => {
    const before = button.textContent;
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch { window.prompt("The path:", text); }
    setTimeout(() => { button.textContent = before; }, 1500);
  };

  // ------------------------------------------------------------------------------------------------- taking along

  const tell = (text, wrong = false) => {
    const place = $("player").open ? $("player-note") : $("told");
    place.textContent = text;
    place.classList.toggle("told", !wrong);
    place.classList.toggle("wrong", wrong);
  };

  const boxes = () => Array.from($("cards").querySelectorAll(".pick input"));
  const chosen = () => boxes().flatMap((box, i) => box.checked ? [{ ...shown[i], curve: undefined }] : []);

  const counted = () => {
    const n = chosen().length;
    $("taking").hidden = n === 0;
    $("taking-count").textContent = `${count(n, "moment")} selected`;
    $("taking-all").disabled = n === shown.length;
  };

  const keep = async (answer) => {
    const name = decodeURIComponent(/filename\*=UTF-8''([^;]+)/.exec(answer.headers.get("content-disposition"))[1]);
    const address = URL.createObjectURL(await answer.blob());
    made("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    return [`Saved ${name}.`, ...heard(answer)].join(" ");
  };

  // One at a time of each button; it keeps the focus, which a disabled one would lose.
  const busy = async (button, words, act) => {
    if (button.getAttribute("aria-busy")) return;
    button.setAttribute("aria-busy", "true");
    const before = button.textContent;
    button.textContent = words;
    try { tell(await act()); }
    catch (error) { tell(why(error), true); }
    button.textContent = before;
    button.removeAttribute("aria-busy");
  };

  const saveClip = (hit, button) => busy(button, "Saving …", async () =>
    keep(await fetched(`/api/clip?video=${encodeURIComponent(hit.video_id)}&start=${hit.start}&end=${hit.end}`)));

  const saveClips = (button) => busy(button, "Saving …", async () => {
    const { clips } = await got("/api/clips", posted({ query: question, moments: chosen() }));
    const failed = clips.clips.filter((one) => one.problem);
    const there = clips.clips.length - failed.length;
    if (failed.length) throw new Error(`${there ? `${count(there, "clip")} saved in ${clips.folder}, ` : ""}${failed.length} not: ${failed[0].problem}`);
    return `${count(there, "clip")} saved in ${clips.folder}.`;
  });

  const saveTimeline = (button) => busy(button, "Exporting …", async () =>
    keep(await fetched("/api/timeline", posted({ query: question, moments: chosen(), form: $("taking-form").value }))));

  const select = (all) => {
    for (const box of boxes()) box.checked = all;
    counted();
    if (!all) boxes()[0]?.focus(); // the button that was pressed has gone
  };

  const moreLike = (hit) => {
    like = { video: hit.video_id, path: hit.path, start: hit.start, end: hit.end, peak: hit.peak };
    picture = null;
    $("q").value = "";
    player.close();
    parts();
    window.scrollTo({ top: 0 });
    ask();
  };

  // ------------------------------------------------------------------------------------------------------ playing

  const scrubber = makeScrubber({
    place: $("player-curve"), clock, seek: (to) => player.seek(to), convert: (to) => player.convert(to),
  });
  const player = makePlayer({
    moment: (i) => shown[i] && {
      name: nameOf(shown[i].path), when: `${clock(shown[i].start)}–${clock(shown[i].end)}`,
      start: shown[i].start, end: shown[i].end, poster: pictureOf(shown[i]),
      source: `/media?video=${encodeURIComponent(shown[i].video_id)}`,
    },
    converted: (i, from) => `/api/stream?video=${encodeURIComponent(shown[i].video_id)}&at=${from.toFixed(3)}`,
    why: async (address) => {
      const asked = new AbortController();
      try { await fetched(address, { signal: asked.signal }); return ""; }
      catch (error) { return why(error); }
      finally { asked.abort(); } // what it says is wanted, and not the film
    },
    lost: () => "This browser cannot play the file: it is gone, or of a kind that it does not know.",
    shown: (i) => {
      const hit = shown[i];
      scrubber.show(hit.curve ? curveOf(hit) : null, `Place in the file; the moment is ${clock(hit.start)} to ${clock(hit.end)}`);
    },
    moved: (second) => scrubber.at(second),
    closed: () => scrubber.forget(),
    opener: (i) => $("cards").querySelectorAll(".play")[i],
  });

  // ------------------------------------------------------------------------------------------------------ the page

  const take = (file) => {
    if (!file || !file.type.startsWith("image/")) { say("Expected a picture.", true); return; }
    picture = file;
    like = null;
    parts();
    ask();
  };

  $("ask").addEventListener("submit", ask);
  $("image").addEventListener("change", () => take($("image").files[0]));
  $("player-like").addEventListener("click", () => moreLike(shown[player.at()]));
  $("player-save").addEventListener("click", (e) => saveClip(shown[player.at()], e.currentTarget));
  $("taking-clips").addEventListener("click", (e) => saveClips(e.currentTarget));
  $("taking-timeline").addEventListener("click", (e) => saveTimeline(e.currentTarget));
  $("taking-all").addEventListener("click", () => select(true));
  $("taking-none").addEventListener("click", () => select(false));
  $("player-copy").addEventListener("click", (e) => copy(shown[player.at()].path, e.currentTarget));
  document.addEventListener("paste", (event) => {
    const file = Array.from(event.clipboardData.files).find((f) => f.type.startsWith("image/"));
    if (file) { event.preventDefault(); take(file); }
  });
  document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
  const describe = () => got("/api/library").then((library) => {
    const hours = library.seconds / 3600;
    $("library").textContent = `${count(library.videos, "video")}, ${hours < 1 ? `${Math.round(library.seconds / 60)} minutes` : `${hours.toFixed(1)} hours`}, in ${library.workspace}`;
    $("taking-clips").title = `In ${library.clips}`;
  }).catch((error) => say(error.message, true));
  describe();
  document.addEventListener("library", describe); // it has others now, as watch.js finds
  if (new URLSearchParams(location.search).get("q")) { $("q").value = new URLSearchParams(location.search).get("q"); ask(); }
})();
