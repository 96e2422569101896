"use strict";
// The player of every page: it plays a moment from its first second on, and stops where the moment ends.
//
//   moment(i)            what is played: { name, when, start, end, source, poster }, undefined = there is none
//   lost(i)              what to say where it cannot be played
//   converted(i, second) address of the file from a second on, in a form that every browser plays; null = there is none
//   why(address)         a promise of what the server says of an address, for one that fails
//   shown(i)             told which moment the player has turned to
//   moved(second)        told where in the file it is, with each picture of the screen
//   closed()             told that it has closed
//   opener(i)            what gets the focus when the player closes, undefined = whatever the browser gives it to
const makePlayer = ({ moment, lost, converted = () => null, why = async () => "", shown = () => {}, moved = () => {}, closed = () => {}, opener = () => {} }) => {
  const LAST_FRAME_S = 0.04; // before the end of a moment, its last picture is still shown
  const dialog = document.getElementById("player");
  const part = (name) => document.getElementById("player-" + name);
  let at = 0;
  let video = null;
  let bounded = true; // whether it stops at the end of the moment
  let zero = null; // the second of the file at which the clock of a converted one begins; null = the file itself plays

  const note = (text, wrong = true) => {
    part("note").textContent = text;
    part("note").classList.toggle("told", !wrong);
  };

  const stop = () => {
    if (!video) return;
    const old = video;
    video = null;
    old.pause();
    old.removeAttribute("src");
    old.load();
    old.remove();
  };

  const second = () => (zero ?? 0) + video.currentTime;

  // A film that is converted on the way has no other second than the one it is at, in most browsers.
  const has = (there) => {
    const ranges = video.seekable;
    for (let i = 0; i < ranges.length; i++) if (ranges.start(i) <= there && there <= ranges.end(i)) return true;
    return false;
  };

  // Whether it went there: what would have to be converted anew is not gone to.
  const went = (to) => {
    if (zero !== null && !has(to - zero)) return false;
    video.currentTime = Math.max(0, to - (zero ?? 0));
    return true;
  };

  const go = (to) => { if (!went(to)) convert(to); };

  const play = () => {
    bounded = true;
    go(moment(at).start);
    video.play().catch(() => {});
  };

  const convert = (from) => {
    const address = converted(at, from);
    if (!address) { note(lost(at)); return; }
    note("Transcoded for this browser, which does not play the file as it is.", false);
    put(address, from);
  };

  const failed = async (one) => {
    const begun = one.currentTime > 0;
    if (zero === null || begun) { convert(begun ? second() : moment(at).start); return; }
    const said = await why(one.currentSrc);
    if (video === one) note(said || lost(at));
  };

  // from: the second at which the address begins, of a converted one; null = it is the file itself
  const put = (address, from) => {
    stop();
    zero = from;
    const found = moment(at);
    const one = document.createElement("video");
    one.controls = true;
    one.playsInline = true;
    one.preload = "auto";
    one.tabIndex = 0;
    one.setAttribute("aria-label", found.name + ", " + found.when);
    if (found.poster) one.poster = found.poster;
    one.addEventListener("loadedmetadata", () => {
      if (video !== one) return;
      if (zero !== null) one.play().catch(() => {});
      else if (one.videoWidth === 0) failed(one); // it knows the sound alone
      else play();
    });
    // Events of time come four times a second, too seldom for a moment of half of one.
    const look = () => {
      if (video !== one) return;
      moved(second());
      if (bounded && second() >= found.end) {
        bounded = false;
        one.pause();
        if (zero === null) one.currentTime = Math.max(found.start, found.end - LAST_FRAME_S);
      }
      requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
    one.addEventListener("error", () => { if (video === one) failed(one); });
    one.src = address;
    video = one;
    part("screen").append(one);
  };

  const turn = (number) => {
    at = number;
    const found = moment(at);
    part("name").textContent = found.name;
    part("when").textContent = found.when;
    part("before").disabled = !moment(at - 1);
    part("after").disabled = !moment(at + 1);
    note("");
    bounded = true;
    put(found.source, null);
    shown(at);
  };

  part("close").addEventListener("click", () => dialog.close());
  part("again").addEventListener("click", () => { if (video) play(); });
  part("before").addEventListener("click", () => { if (moment(at - 1)) turn(at - 1); });
  part("after").addEventListener("click", () => { if (moment(at + 1)) turn(at + 1); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    stop();
    closed();
    opener(at)?.focus();
  });
  return {
    open: (number) => { dialog.showModal(); turn(number); },
    close: () => { if (dialog.open) dialog.close(); },
    seek: (to) => { bounded = false; return !video || went(to); },
    convert: (to) => { if (video) { bounded = false; convert(to); } },
    second: () => (video ? second() : 0),
    at: () => at,
  };
};
