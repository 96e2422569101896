"use strict";
// The curve under the player as a slider: dragged, or moved by the keys that sliders have.
//
//   place        the element that becomes the slider; hidden where there is no curve
//   clock(s)     seconds as they are shown
//   seek(s)      goes there if the film has it at hand, and says whether it has
//   convert(s)   goes there the slow way
const makeScrubber = ({ place, clock, seek, convert }) => {
  const STEP_S = 1, LEAP_S = 10;
  const REST_MS = 250; // without another move, before a film is converted anew from there
  let drawing = null;
  let end = 0;
  let now = 0;
  let dragging = false;
  let waiting = null; // a timer: where `now` is has not been gone to yet

  // A film that plays is told of once a second: more often is read out over itself.
  const say = (second, playing = false) => {
    const before = now;
    now = Math.min(Math.max(second, 0), end);
    const x = end ? 1000 * now / end : 0;
    drawing.querySelector(".now").setAttribute("x1", x.toFixed(1));
    drawing.querySelector(".now").setAttribute("x2", x.toFixed(1));
    if (playing && Math.floor(now) === Math.floor(before)) return;
    place.setAttribute("aria-valuenow", now.toFixed(1));
    place.setAttribute("aria-valuetext", `${clock(now)} of ${clock(end)}`);
  };

  const forget = () => { clearTimeout(waiting); waiting = null; };

  const go = (to) => {
    say(to);
    forget();
    if (!seek(now)) waiting = setTimeout(() => { waiting = null; convert(now); }, REST_MS);
  };

  const under = (event) => {
    const box = drawing.getBoundingClientRect();
    return end * (event.clientX - box.left) / box.width;
  };

  const keys = {
    ArrowLeft: () => now - STEP_S, ArrowDown: () => now - STEP_S, ArrowRight: () => now + STEP_S, ArrowUp: () => now + STEP_S,
    PageDown: () => now - LEAP_S, PageUp: () => now + LEAP_S, Home: () => 0, End: () => end,
  };

  place.addEventListener("keydown", (event) => {
    if (!drawing || !keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    go(keys[event.key]());
  });
  place.addEventListener("pointerdown", (event) => {
    if (!drawing || event.button !== 0) return;
    dragging = true;
    place.setPointerCapture(event.pointerId);
    go(under(event));
  });
  place.addEventListener("pointermove", (event) => { if (dragging) go(under(event)); });
  for (const over of ["pointerup", "pointercancel"]) place.addEventListener(over, () => { dragging = false; });

  return {
    // curve: a drawing whose `dataset.end` is the length of the file, null = there is none. label: what the slider is.
    show: (curve, label) => {
      forget();
      dragging = false;
      drawing = curve;
      place.hidden = !curve;
      place.replaceChildren(...(curve ? [curve] : []));
      if (!curve) return;
      end = Number(curve.dataset.end);
      curve.removeAttribute("role");
      curve.removeAttribute("aria-label");
      curve.setAttribute("aria-hidden", "true");
      place.setAttribute("aria-label", label);
      place.setAttribute("aria-valuemin", "0");
      place.setAttribute("aria-valuemax", end.toFixed(1));
      say(0);
    },
    // The film is at a second: of itself, or because it was sent there.
    at: (second) => { if (drawing && !dragging && waiting === null) say(second, true); },
    forget,
  };
};
