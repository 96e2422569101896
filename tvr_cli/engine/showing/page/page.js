"use strict";
// A picture is a link to its video; here it opens a player instead. Nothing is loaded before somebody asks for it.
(() => {
  const dialog = document.getElementById("player");
  if (!dialog || !dialog.showModal) return;
  const part = (name) => document.getElementById("player-" + name);
  const links = Array.from(document.querySelectorAll("a.play"));
  const LAST_FRAME_S = 0.04; // before the end of a moment, its last picture is still shown
  let at = 0;
  let video = null;
  let bounded = true;

  const stop = () => {
    if (!video) return;
    const old = video;
    video = null;
    old.pause();
    old.removeAttribute("src");
    old.load();
    old.remove();
  };

  const play = () => {
    bounded = true;
    video.currentTime = Number(links[at].dataset.start);
    video.play().catch(() => {});
  };

  const show = (number) => {
    stop();
    at = number;
    const link = links[at];
    const moment = link.dataset;
    part("name").textContent = moment.name;
    part("when").textContent = moment.when;
    part("note").textContent = "";
    part("before").disabled = at === 0;
    part("after").disabled = at === links.length - 1;
    const one = document.createElement("video");
    one.controls = true;
    one.playsInline = true;
    one.preload = "auto";
    one.tabIndex = 0;
    one.setAttribute("aria-label", moment.name + ", " + moment.when);
    const image = link.querySelector("img");
    if (image) one.poster = image.src;
    one.addEventListener("loadedmetadata", () => { if (video === one) play(); });
    // Events of time come four times a second, too seldom for a moment of half of one.
    const look = () => {
      if (video !== one) return;
      if (bounded && one.currentTime >= Number(moment.end)) {
        bounded = false;
        one.pause();
        one.currentTime = Math.max(Number(moment.start), Number(moment.end) - LAST_FRAME_S);
      }
      requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
    one.addEventListener("error", () => {
      if (video !== one) return;
      part("note").textContent =
        "This browser cannot play the file: it is not where it was, or of a kind that it does not know. " +
        "Its place: " + moment.path;
    });
    one.src = link.href;
    video = one;
    part("screen").append(one);
  };

  links.forEach((link, number) => {
    link.setAttribute("aria-haspopup", "dialog");
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      dialog.showModal();
      show(number);
    });
  });
  part("close").addEventListener("click", () => dialog.close());
  part("again").addEventListener("click", () => { if (video) play(); });
  part("before").addEventListener("click", () => { if (at > 0) show(at - 1); });
  part("after").addEventListener("click", () => { if (at < links.length - 1) show(at + 1); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    stop();
    if (links[at]) links[at].focus();
  });
})();
