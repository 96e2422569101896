"use strict";
// A picture is a link to its video; here it opens the player instead. Nothing is loaded before somebody asks for it.
(() => {
  if (!document.getElementById("player")?.showModal) return;
  const links = Array.from(document.querySelectorAll("a.play"));
  const player = makePlayer({
    moment: (i) => links[i] && {
      name: links[i].dataset.name, when: links[i].dataset.when, source: links[i].href,
      start: Number(links[i].dataset.start), end: Number(links[i].dataset.end),
      poster: links[i].querySelector("img")?.src,
    },
    lost: (i) => "This browser cannot play the file: it is not where it was, or of a kind that it does not know. " +
      "Its place: " + links[i].dataset.path,
    opener: (i) => links[i],
  });
  links.forEach((link, number) => {
    link.setAttribute("aria-haspopup", "dialog");
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      player.open(number);
    });
  });
})();
